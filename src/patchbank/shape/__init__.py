"""Geometry of a part on the pixel grid of its picture: readers, surfaces, shape images, features of points."""

from patchbank.shape.shape import Camera, Pinhole, Pitch, Shape

__all__ = ["Camera", "Pinhole", "Pitch", "Shape"]
