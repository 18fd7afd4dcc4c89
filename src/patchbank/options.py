"""The options that every method has, what they mean where they are not given, and which values make sense."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from patchbank._system.former_names import TakesFormerNames
from patchbank._system.numbers import check_threads, why_no_number
from patchbank.calibration.calibration import SCHEMES
from patchbank.calibration.conformal import check_rate
from patchbank.data.channels import check_channels
from patchbank.data.values import check_range
from patchbank.errors import OptionError
from patchbank.features import aggregation
from patchbank.features.backbones import PIXELS
from patchbank.scoring.maps import IMAGE_SCORES
from patchbank.shape import DepthFormat

# Options that the geometry decides where the user does not: what was measured to be best, or the protocol of the papers
# (docs/methods/patchcore.md).
BY_GEOMETRY: dict[str, dict[str, Any]] = {
    "whole": {
        "image_size": 384,
        "enlarge": False,
        "aggregation": "mean",
        "image_score": "smoothed",
        "sigma": 10.0,
        "position_scale": False,
        "balance_levels": True,
    },
    "paper": {
        "image_size": 224,
        "enlarge": False,
        "aggregation": "reference",
        "image_score": "max",
        "sigma": 4.0,
        "position_scale": False,
        "balance_levels": False,
    },
}
FUSIONS = ("map-sum", "max", "learned", "concat")
LARGEST_SEED = 2**32 - 1  # of the generators in use
ALWAYS = {"patch_size": 3, "neighbours": 9}  # whatever the geometry, unless a method says otherwise


@dataclass(kw_only=True, eq=False)
class Options(metaclass=TakesFormerNames):
    """Options that every method has. The constructor only stores them; `fit` checks them; fitted state ends in `_`.

    Options that are None and stand in `BY_GEOMETRY` or `ALWAYS` have the value there.

    Args:
        backbone: a registered name, `timm/<name>` or `hf/<name-or-path>`; "pixels", the picture itself, of methods that
            learn from images.
        weights: None for the pretrained ones, a file, or "random".
        levels: of the backbone, shallowest first; None for its usual ones.
        image_size: maximum length of the shorter inspected side, in pixels.
        enlarge: bring pictures that are all smaller than `image_size` up to it, by one factor of at most 3.
        geometry: "whole", or "paper": a central crop.
        aggregation: how the levels become one feature: "mean" of each channel, or "reference", the authors' code.
        patch_size: side of the neighbourhood that features are averaged over, in cells of the grid.
        stride: keep every N-th position of the grid in both directions.
        image_score: "max", "smoothed" or "top".
        sigma: of the map's Gaussian, in pixels at the inspected size.
        position_scale: divide the map by what good parts reach at each place (`calibration.position_scale`); takes 24
            good parts, and the image score "smoothed"; by default not where geometry is inspected.
        false_alarm_rate: share of good parts that may be rejected.
        calibration: which good images it is learned from, one of `SCHEMES` (docs/guides/thresholds.md).
        group_by: which images show one part, so that they are left out together: "folder", a CSV file of images and
            groups, a regular expression on names, or None to look for near-copies.
        seed: of everything random.
        device: "auto", "cpu" or "cuda".
        runtime: what runs the network, one of `patchbank.features.backbones.engines`.
        precision: of the network on a GPU, "float32", "bfloat16" or "float16".
        threads: of the whole process, None for all cores.
        memory_budget: bytes, None for most of what is free.
        thumbnails_mb: maximum MB of small pictures of the training images in the model, 0 for none.
        roi: a mask image or a JSON file with polygons, see `patchbank.data.roi`, or a `RegionOfInterest`.
        channels: of each sample, those that are inspected: "rgb", one that has a reader (`data.channels`), or what is
            made of its geometry (docs/guides/channels.md). None: rgb, and where the samples have geometry what the
            method has for them, `Detector.with_geometry`.
        fusion: how several channels become one score: "map-sum", "max", "learned" (`memory.fused_scorer`), or "concat"
            for one memory of their features side by side.
        depth: what the numbers of depths, heights or points mean, a `shape.DepthFormat`; None to find out.
        align: lay each image over one of the training images first, in whose pixels the roi is then.
        tile: inspect images at their own size, in tiles of this many pixels.
        overlap: pixels that neighbouring tiles share.
        value_range: the (low, high) of pixel values that mean black and white in images of more than eight bits, None
            to decide from the training images (docs/guides/pixel-values.md).
    """

    without_effect: ClassVar[frozenset[str]] = frozenset()  # options that change nothing of what a method computes
    on_whole_images: ClassVar[dict[str, Any]] = {}  # a method's own defaults where the geometry is "whole"

    former: ClassVar[dict[str, str]] = {"thumbnails": "thumbnails_mb"}  # names that options had before

    backbone: str = "efficientnet_lite0"
    weights: str | None = None
    levels: tuple[int, ...] | None = None
    image_size: int | None = None
    enlarge: bool | None = None
    geometry: str = "whole"
    aggregation: str | None = None
    patch_size: int | None = None
    stride: int = 1
    image_score: str | None = None
    sigma: float | None = None
    position_scale: bool | None = None
    false_alarm_rate: float = 0.01
    calibration: str = "auto"
    group_by: str | None = None
    seed: int = 0
    device: str = "auto"
    runtime: str = "auto"
    precision: str = "float32"
    threads: int | None = None
    memory_budget: int | None = None
    thumbnails_mb: float = 5.0
    roi: Any = None
    channels: tuple[str, ...] | None = None
    fusion: str = "map-sum"
    depth: DepthFormat | None = None
    align: bool = False
    tile: int | None = None
    overlap: int = 128
    value_range: tuple[float, float] | None = None

    def parameters(self) -> dict[str, Any]:
        """Every option and its value in effect."""
        return {name: self.option(name) for name in self.parameter_names()}

    def option(self, name: str) -> Any:
        """The value of an option; where it is None and the geometry decides, that of the geometry."""
        return self.in_effect(name, getattr(self, name))

    def in_effect(self, name: str, value: Any) -> Any:
        """A value for an option; for None, that of the geometry."""
        defaults = ALWAYS | BY_GEOMETRY.get(self.geometry, BY_GEOMETRY["whole"])
        defaults |= {} if self.geometry == "paper" else self.on_whole_images
        if value is None and name == "enlarge" and self.tile is not None:
            return False
        if value is None and name == "position_scale" and self.option("image_score") != "smoothed":
            return False
        return defaults.get(name) if value is None else value

    @classmethod
    def parameter_names(cls) -> list[str]:
        """The options' names, in order."""
        return [f.name for f in dataclasses.fields(cls) if f.init]

    @classmethod
    def takes(cls, name: str) -> bool:
        """Whether there is an option of that name, and it has an effect."""
        return name in cls.parameter_names() and name not in cls.without_effect

    def check(self) -> None:
        """Raise `OptionError` for values that cannot be used, before any work."""
        if self.value_range is not None:
            check_range(self.value_range)
        if isinstance(self.channels, str):
            self.channels = tuple(self.channels.split(","))
        check_numbers(self)
        check_effects(self)
        if self.backbone == PIXELS != type(self).backbone:
            raise OptionError(
                f"the backbone {PIXELS} is for methods that learn from images, such as draem: give another backbone"
            )
        if self.channels is not None:
            check_channels(self.channels)
        if self.fusion not in FUSIONS:
            raise OptionError(f"fusion must be one of {', '.join(FUSIONS)}, not {self.fusion!r}")
        if self.depth is not None and not isinstance(self.depth, DepthFormat):
            raise OptionError(f"depth must be a DepthFormat, such as DepthFormat(unit='mm'), not {self.depth!r}")
        aggregation.check_options(self.option("aggregation"), self.option("patch_size"), self.stride)
        check_rate(self.false_alarm_rate)
        if self.calibration not in SCHEMES:
            raise OptionError(f"calibration must be one of {', '.join(SCHEMES)}, not {self.calibration!r}")
        if self.option("image_score") not in IMAGE_SCORES:
            raise OptionError(f"image_score must be one of {', '.join(IMAGE_SCORES)}, not {self.image_score!r}")
        if not 0 <= self.option("sigma") <= 100:
            raise OptionError(f"sigma must lie in 0..100 pixels, not {self.sigma}")
        if self.position_scale and self.option("image_score") != "smoothed":
            raise OptionError(
                f"position_scale goes with the image score smoothed, not {self.option('image_score')}: leave one out"
            )
        if self.enlarge and (self.geometry != "whole" or self.tile is not None):
            raise OptionError("enlarge is for whole images, neither cropped nor in tiles: leave it out")
        if self.tile is not None and (self.geometry != "whole" or self.stride != 1):
            raise OptionError("tile is for whole images, patch by patch: leave out geometry and stride")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise OptionError(f"seed must lie in 0..{LARGEST_SEED}, not {self.seed}")
        if self.image_size is not None and not 32 <= self.image_size <= 4096:
            raise OptionError(f"image_size must lie in 32..4096 pixels, not {self.image_size}")
        if self.memory_budget is not None and self.memory_budget < 1:
            raise OptionError(f"memory_budget must be at least one byte, not {self.memory_budget}")
        if self.overlap < 0:
            raise OptionError(f"overlap must not be negative, not {self.overlap}")
        if self.thumbnails_mb < 0:
            raise OptionError(f"thumbnails_mb must not be negative (MB; 0 for none), not {self.thumbnails_mb}")
        check_threads(self.threads)

    @property
    def torch_device(self) -> torch.device:
        """The device that `device` means on this machine."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise OptionError(f"device must be auto, cpu or cuda, not {self.device!r}") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise OptionError("device 'cuda' was asked for, but torch finds no CUDA GPU here: use auto or cpu")
        return device


def check_numbers(options: Options) -> None:
    """Raise `OptionError` where an option is no number of the kind that its type says: NaN, infinity, True for 1.
    Numbers of numpy, which other libraries and JSON do not take, become Python's."""
    hints = typing.get_type_hints(type(options))
    for name in options.parameter_names():
        value = getattr(options, name)
        if why := why_no_number(value, hints[name]):
            raise OptionError(f"{name} must be {why}, not {value!r}")
        if isinstance(value, np.generic):
            setattr(options, name, value.item())


def check_effects(options: Options) -> None:
    """Raise `OptionError` where an option was given that has no effect on the method. The value that is in effect
    anyway is none: `parameters` has it too."""
    for name in sorted(options.without_effect):
        if options.option(name) != options.in_effect(name, getattr(type(options), name)):
            method = getattr(options, "method", "this method")
            raise OptionError(f"{name} has no effect on {method}: leave it out")


def check_augment(augment: str | None, align: bool) -> None:
    """Raise `OptionError` for turned copies that cannot be made."""
    if augment not in (None, "rotations"):
        raise OptionError(f"augment must be rotations or none, not {augment!r}")
    if augment and align:
        raise OptionError("align lays every part the same way: leave out augment")
