"""The tables and figures of the papers as grids that can be run. Adding one is adding an entry to `PRESETS`.

Where a paper leaves something open, the entry's `note` says what is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from patchbank.errors import OptionError
from patchbank.evaluation import published as p
from patchbank.evaluation.published import Published

DEFAULT_BACKBONE = "efficientnet_lite0"
_PAPER = {"backbone": "wide_resnet50", "geometry": "paper"}
_SIZES = ("coreset", "bank_size", "bank_mb")  # one of them at a time
_ACCURACY = ("image_auroc", "pixel_auroc", "aupro")


@dataclass(frozen=True)
class Data:
    """What the numbers of a paper were measured on: its layout here, how many categories make the mean, and their names
    where the data can be told by them."""

    name: str
    layouts: tuple[str, ...]
    categories: int = 1
    names: tuple[str, ...] = ()

    def has(self, dataset: str, layout: str) -> bool:
        """Whether a dataset of that name and layout belongs to it."""
        return layout in self.layouts and (not self.names or dataset in self.names)


MVTEC_AD = Data("MVTec AD", ("mvtec",), 15, p.MVTEC)
MTD = Data("MTD", ("mtd",))
MSTC = Data("mSTC", ("mvtec",), 12)


@dataclass(frozen=True)
class Variant:
    """One row of a table: `label`, in which options in braces stand for their values, the method with its options, and
    what is printed for it."""

    label: str
    method: str = "patchcore"
    options: Mapping[str, Any] = field(default_factory=dict)
    published: Published = field(default_factory=dict)
    shots: int | None = None

    def options_with(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the paper, and before them those that were given; a bank of everything has no other size."""
        given = {key: value for key, value in given.items() if value is not None}
        options: dict[str, Any] = {**_PAPER, **self.options}
        if options.get("sampler") == "identity":
            given = {key: value for key, value in given.items() if key not in _SIZES}
        elif any(size in given for size in _SIZES):
            options = {key: value for key, value in options.items() if key not in _SIZES}
        return options | given

    def label_with(self, options: Mapping[str, Any]) -> str:
        """The label, for these options in effect."""
        words = {key: value for key, value in options.items() if isinstance(value, str | int | float)}
        words["levels"] = "+".join(map(str, options.get("levels") or ()))
        words["coreset"] = _size(options)
        return self.label.format(**words, shots=self.shots)


def _size(options: Mapping[str, Any]) -> str:
    if options.get("bank_size"):
        return f"{options['bank_size']} patches"
    if options.get("bank_mb"):
        return f"{options['bank_mb']} MB"
    coreset = options.get("coreset")
    return f"{100 * coreset:g} %" if isinstance(coreset, float | int) else str(coreset)


@dataclass(frozen=True)
class Preset:
    """`source`: the table or figure; `metrics`: those it is about; `seeds`: so many runs of each; `every`: of a video's
    frames, that many-th."""

    name: str
    source: str
    what: str
    variants: tuple[Variant, ...]
    metrics: tuple[str, ...] = _ACCURACY
    data: Data = MVTEC_AD
    seeds: tuple[int, ...] = (0,)
    every: int = 1
    note: str = ""

    def published(self, label: str) -> Published:
        """What is printed for the variant of that label; nothing where options were given that make it another one."""
        for variant in self.variants:
            if variant.label_with(variant.options_with({})) == label:
                return variant.published
        return {}


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises `OptionError` that says how they are listed."""
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise OptionError(f"--preset: there is no {name!r}; `patchbank benchmark --preset list` shows what there is")


FIVE = (0, 1, 2, 3, 4)
_IDENTITY = {"sampler": "identity"}
_IVFPQ = {"sampler": "identity", "search": "ivfpq"}
_PADIM = {"n_features": 550}  # of WideResNet50, as PaDiM's authors; fewer where the backbone has fewer


def _patchcore(share: float, published: Published | None = None) -> Variant:
    return Variant("PatchCore-{coreset}", options={"coreset": share}, published=published or p.PATCHCORE[share])


def _accuracy(published: Published) -> Published:
    return {name: published[name] for name in _ACCURACY}


_SPEED = (
    Variant("PatchCore-100 %", options=_IDENTITY, published=p.SPEED["PatchCore-100"]),
    _patchcore(0.1, p.SPEED["PatchCore-10"]),
    _patchcore(0.01, p.SPEED["PatchCore-1"]),
    Variant("PatchCore-100 % + IVFPQ", options=_IVFPQ, published=p.SPEED["PatchCore-100 + IVFPQ"]),
    Variant("SPADE", "spade", published=p.SPEED["SPADE"]),
    Variant("PaDiM", "padim", _PADIM, p.SPEED["PaDiM"]),
)  # fmt: skip

_SAMPLERS = (
    Variant("none, 100 %", options=_IDENTITY, published=_accuracy(p.SPEED["PatchCore-100"])),
    *(
        Variant("{sampler}, {coreset}", options={"sampler": sampler, "coreset": share}, published=published)
        for share in (0.25, 0.1, 0.01)
        for sampler, published in (
            ("greedy", _accuracy(p.PATCHCORE[share])),
            ("random", p.RANDOM_10 if share == 0.1 else {}),
            ("proxies", {}),
        )
    ),
    *(
        Variant("stride {stride}, 100 %", options=_IDENTITY | {"stride": stride}, published=p.STRIDES[stride])
        for stride in (2, 3)
    ),
)

_LOW_SHOT = tuple(
    Variant(label, method, options, p.low_shot(key, shots), shots)
    for label, method, options, key in (
        ("PatchCore-{coreset}, {shots}-shot", "patchcore", {"coreset": 0.1}, "patchcore 0.1"),
        ("PatchCore-{coreset}, {shots}-shot", "patchcore", {"coreset": 0.25}, "patchcore 0.25"),
        ("PaDiM, {shots}-shot", "padim", _PADIM, "padim"),
        ("SPADE, {shots}-shot", "spade", {}, "spade"),
    )
    for shots in p.SHOTS
)

_FAPM_SWITCHES = {  # patch-wise, layer-wise, adaptive
    "A": (False, False, False), "B": (True, False, False), "C": (False, True, False), "D": (True, True, False),
    "E": (True, True, True),
}  # fmt: skip
_FAPM_NAMES = {"A": "neither", "B": "patch-wise", "C": "layer-wise", "D": "both", "E": "both, adaptive"}

# aggregation to balance: what the geometry of the papers would mean, which here is not theirs
_MSTC = {"geometry": "whole", "image_size": 256, "levels": (3, 4), "coreset": 0.1, "aggregation": "reference",
         "image_score": "max", "sigma": 4.0, "balance_levels": False}  # fmt: skip

PRESETS = (
    Preset(
        "patchcore-table1", "PatchCore, Tables 1 to 3 and S1 to S3", "three sizes of the bank, by category",
        tuple(_patchcore(share) for share in (0.25, 0.1, 0.01)), (*_ACCURACY, "misclassified"),
    ),
    Preset(
        "patchcore-speed", "PatchCore, Table 4", "accuracy and time an image, beside SPADE and PaDiM", _SPEED,
        (*_ACCURACY, "seconds"), note="Ours is the median time of one image alone; the paper's is a mean, on a GPU.",
    ),
    Preset(
        "patchcore-neighbourhood", "PatchCore, Fig. 4, top", "the neighbourhood p of Eq. 1",
        tuple(Variant("p = {patch_size}", options={"patch_size": size, "coreset": 0.1}) for size in (1, 3, 5, 7, 9)),
        note="The figure has no readable numbers, nor does it say which values of p and which bank: 1 to 9, 10 %.",
    ),
    Preset(
        "patchcore-levels", "PatchCore, Fig. 4, bottom", "the levels of the network",
        tuple(
            Variant("levels {levels}", options={"levels": levels, "coreset": 0.1})
            for levels in ((1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3))
        ),
        note="The figure has no readable numbers.",
    ),
    Preset(
        "patchcore-subsampling", "PatchCore, Fig. 5", "greedy, random and learned (Eq. 8) banks, and striding",
        _SAMPLERS,
        note="The figure has no readable numbers: greedy ones are of Tables 1 to 4, strides of §4.4.2, random at 10 % "
        "of the page on samplers in the authors' documentation (“typical”).",
    ),
    Preset(
        "patchcore-lowshot", "PatchCore, Table S4", "1 to 50 training images, beside PaDiM and SPADE", _LOW_SHOT,
        seeds=FIVE, note="The paper does not say how many draws its ± is over: five unless --seeds says otherwise.",
    ),
    Preset(
        "patchcore-backbones", "PatchCore, Table S5", "five networks at 10 % and 1 %",
        tuple(
            Variant("{backbone}, {coreset}", options={"backbone": name, "coreset": share}, published=published)
            for (name, share), published in p.BACKBONES.items()
        ),
    ),
    Preset(
        "patchcore-resolution", "PatchCore, Fig. S4", "image sizes S and neighbourhoods P",
        tuple(
            Variant("S = {image_size}, P = {patch_size}", options={"image_size": s, "patch_size": size, "coreset": 0.1})
            for s, size in ((224, 3), *((s, size) for s in (288, 360, 448) for size in (3, 5, 7, 9)))
        ),
        note="The figure has no readable numbers, nor does it say which bank: 10 %.",
    ),
    Preset(
        "patchcore-mtd", "PatchCore, Table 5, bottom", "magnetic tiles: 80 % of the good images train",
        (_patchcore(0.1, p.MTD),), data=MTD,
        note="The paper does not say how the tiles were resized and which 80 % were drawn.",
    ),
    Preset(
        "patchcore-mstc", "PatchCore, Table 5, top", "12 scenes of video, every fifth frame",
        (Variant("PatchCore-{coreset}", options=_MSTC, published=p.MSTC),), ("pixel_auroc",), MSTC, every=5,
        note="One folder in the mvtec layout for each scene, with all its frames. The paper squeezes frames to "
        "256×256; here the shorter side is 256, and nothing is cut.",
    ),
    Preset(
        "fapm-table1", "FAPM, Table 1", "FAPM by category, and its speed beside PatchCore's",
        (
            Variant("FAPM", "fapm", published=p.FAPM),
            Variant("PatchCore-{coreset}", options={"coreset": 0.1}, published=p.PATCHCORE_IN_FAPM),
        ),
        ("image_auroc", "pixel_auroc", "images_per_second"),
    ),
    Preset(
        "fapm-ablation", "FAPM, Table 2", "banks by region, by level, and adaptive sampling",
        tuple(
            Variant(
                f"{letter}: {_FAPM_NAMES[letter]}", "fapm",
                dict(zip(("patch_wise", "layer_wise", "adaptive"), switches, strict=True)), p.FAPM_ABLATION[letter],
            )
            for letter, switches in _FAPM_SWITCHES.items()
        ),
        ("image_auroc", "pixel_auroc", "images_per_second"),
    ),
    Preset(
        "lmf-table4", "LMF-Core, Table 4", "LMF-Core by category, one seed",
        (Variant("LMF-Core", "lmf", published=p.LMF),), ("image_auroc", "pixel_auroc"),
    ),
    Preset(
        "lmf-ablation", "LMF-Core, Table 5", "its two modules, added one after the other",
        (
            Variant("baseline: equal, greedy", "lmf",
                    {"level_fusion": "equal", "channel_share": 1.0, "sampler": "greedy"},
                    p.LMF_ABLATION["baseline"]),
            Variant("+ VG-Fusion, greedy", "lmf", {"sampler": "greedy"}, p.LMF_ABLATION["VG-Fusion"]),
            Variant("+ RP-Coreset (full)", "lmf", {}, p.LMF_ABLATION["full"]),
        ),
        ("image_auroc", "pixel_auroc", "bank_thousands", "bank_mb"), seeds=FIVE,
    ),
    Preset(
        "lmf-sensitivity", "LMF-Core, Table 6 and §6.3", "channels kept κ, dimension d', share r",
        tuple(
            Variant("κ = {channel_share}, d' = {projection}, r = {coreset}", "lmf",
                    {"channel_share": kappa, "projection": dimension, "coreset": share}, published)
            for (kappa, dimension, share), published in p.LMF_SENSITIVITY.items()
        ),
        ("image_auroc", "pixel_auroc"), seeds=FIVE,
    ),
)  # fmt: skip
