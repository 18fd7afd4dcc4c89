"""Files → RGB arrays; geometry: resize, crop, and the way back to input pixels."""

from patchbank.images.alignment import AlignedView, Reference, choose_reference
from patchbank.images.geometry import Geometry, View
from patchbank.images.lattice import Lattice
from patchbank.images.listing import IMAGE_SUFFIXES, Listing, list_folder, list_images
from patchbank.images.opening import opened
from patchbank.images.prefetch import prefetch
from patchbank.images.read import image_size, read_image
from patchbank.images.roi import RegionOfInterest, read_roi
from patchbank.images.sources import ImageLike, Images, Source, gather, stream
from patchbank.images.tiling import Tiling
from patchbank.images.training_range import decide_range
from patchbank.images.turning import turn, turned_back, turned_by
from patchbank.images.values import RGB, ValueRange

__all__ = [
    "IMAGE_SUFFIXES",
    "RGB",
    "AlignedView",
    "Geometry",
    "ImageLike",
    "Images",
    "Lattice",
    "Listing",
    "Reference",
    "RegionOfInterest",
    "Source",
    "Tiling",
    "ValueRange",
    "View",
    "choose_reference",
    "decide_range",
    "gather",
    "image_size",
    "list_folder",
    "list_images",
    "opened",
    "prefetch",
    "read_image",
    "read_roi",
    "stream",
    "turn",
    "turned_back",
    "turned_by",
]
