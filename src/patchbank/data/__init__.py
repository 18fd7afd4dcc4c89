"""Files → RGB arrays; geometry: resize, crop, and the way back to input pixels."""

from patchbank.data.alignment import AlignedView, Reference, choose_reference
from patchbank.data.geometry import Geometry, View, zoom_for
from patchbank.data.lattice import Lattice
from patchbank.data.listing import IMAGE_SUFFIXES, Listing, list_folder, list_images
from patchbank.data.opening import opened
from patchbank.data.prefetch import prefetch
from patchbank.data.read import image_size, read_image, shorter_sides
from patchbank.data.roi import RegionOfInterest, read_roi
from patchbank.data.sources import ImageLike, Images, gather, stream
from patchbank.data.tiling import Tiling
from patchbank.data.training_range import decide_range
from patchbank.data.turning import turn, turned_back, turned_by
from patchbank.data.values import RGB, ValueRange
from patchbank.sample import Sample

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
    "Sample",
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
    "shorter_sides",
    "stream",
    "turn",
    "turned_back",
    "turned_by",
    "zoom_for",
]
