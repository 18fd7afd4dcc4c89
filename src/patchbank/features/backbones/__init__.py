"""Frozen networks that turn images into feature maps: registry, weights, runtimes, adapters."""

from patchbank.features.backbones import efficientnet_lite, resnet  # noqa: F401  (importing a family registers it)
from patchbank.features.backbones.backbone import Backbone, numbers_layers, open_backbone, reuse_backbone
from patchbank.features.backbones.pixels import PIXELS
from patchbank.features.backbones.registry import BackboneSpec, get_spec, list_backbones

__all__ = [
    "PIXELS",
    "Backbone",
    "BackboneSpec",
    "get_spec",
    "list_backbones",
    "numbers_layers",
    "open_backbone",
    "reuse_backbone",
]
