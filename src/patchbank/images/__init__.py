"""Files → RGB arrays; geometry: resize, crop, and the way back to input pixels."""

from patchbank.images.geometry import Geometry, View
from patchbank.images.prefetch import prefetch
from patchbank.images.read import RGB, image_size, read_image
from patchbank.images.sources import IMAGE_SUFFIXES, ImageLike, Images, Source, gather, list_images
from patchbank.images.turning import turned_back, turned_by

__all__ = [
    "IMAGE_SUFFIXES",
    "RGB",
    "Geometry",
    "ImageLike",
    "Images",
    "Source",
    "View",
    "gather",
    "image_size",
    "list_images",
    "prefetch",
    "read_image",
    "turned_back",
    "turned_by",
]
