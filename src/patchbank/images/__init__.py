"""Files → RGB arrays; geometry: resize, crop, and the way back to input pixels."""

from patchbank.images.alignment import AlignedView, Reference, choose_reference
from patchbank.images.geometry import Geometry, View
from patchbank.images.lattice import Lattice
from patchbank.images.prefetch import prefetch
from patchbank.images.read import RGB, image_size, read_image
from patchbank.images.roi import RegionOfInterest, read_roi
from patchbank.images.sources import IMAGE_SUFFIXES, ImageLike, Images, Source, gather, list_images
from patchbank.images.tiling import Tiling
from patchbank.images.turning import turn, turned_back, turned_by

__all__ = [
    "IMAGE_SUFFIXES",
    "RGB",
    "AlignedView",
    "Geometry",
    "ImageLike",
    "Images",
    "Lattice",
    "Reference",
    "RegionOfInterest",
    "Source",
    "Tiling",
    "View",
    "choose_reference",
    "gather",
    "image_size",
    "list_images",
    "prefetch",
    "read_image",
    "read_roi",
    "turn",
    "turned_back",
    "turned_by",
]
