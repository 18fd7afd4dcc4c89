"""Geometry of a part on the pixel grid of its picture: readers, surfaces, shape images, features of points."""

from patchbank.data.pairing import is_geometry
from patchbank.shape.camera_file import read_camera
from patchbank.shape.extent import describe
from patchbank.shape.format import DepthFormat
from patchbank.shape.normal_map import read_normals
from patchbank.shape.read import decide_unit, read_shape, shape_size
from patchbank.shape.shape import Camera, Pinhole, Pitch, Shape
from patchbank.shape.write import write_depth_png, write_pcd, write_ply, write_xyz

__all__ = [
    "Camera",
    "DepthFormat",
    "Pinhole",
    "Pitch",
    "Shape",
    "decide_unit",
    "describe",
    "is_geometry",
    "read_camera",
    "read_normals",
    "read_shape",
    "shape_size",
    "write_depth_png",
    "write_pcd",
    "write_ply",
    "write_xyz",
]
