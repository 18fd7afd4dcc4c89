"""What the golden file holds: every method, and every option that changes a number, on small drawn images.

Each case returns plain numbers. `record` is what `golden.json` was made with and what the test compares.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

import patchbank
from patchbank.data import RegionOfInterest

SIZE = (64, 80)
METHODS = {
    "patchcore": patchbank.PatchCore,
    "padim": patchbank.PaDiM,
    "fapm": patchbank.FAPM,
    "lmf": patchbank.LMFCore,
    "spade": patchbank.SPADE,
    "mahalanobis": patchbank.MahalanobisAD,
    "subspace": patchbank.SubspaceAD,
    "anomalydino": patchbank.AnomalyDINO,
}
Image = NDArray[np.uint8]
Numbers = dict[str, Any]


def drawn(seed: int, size: tuple[int, int] = SIZE, shift: int = 0) -> Image:
    """A good part: a disc on stripes, with noise."""
    rng = np.random.default_rng([99, seed])
    y, x = np.mgrid[: size[0], : size[1]]
    grey = 120 + 40 * np.sin((x + shift) / 4 + rng.uniform(0, 2)) + 6 * rng.standard_normal(size)
    disc = (y - size[0] / 2) ** 2 + (x - size[1] / 2 - shift) ** 2 < (size[0] / 3) ** 2
    colours = np.stack([grey, grey * 0.8 + 30 * disc, grey * 0.6 + 60 * disc], axis=2)
    return np.clip(colours, 0, 255).astype(np.uint8)


def damaged(seed: int, size: tuple[int, int] = SIZE) -> Image:
    """A part with a bright square."""
    image = drawn(seed, size)
    top, left = 12 + 3 * (seed % 5), 20 + 5 * (seed % 4)
    image[top : top + 12, left : left + 12] = (250, 220, 40)
    return image


GOOD = [drawn(i) for i in range(12)]
MORE = [drawn(100 + i) for i in range(6)]
BAD = [damaged(200 + i) for i in range(3)]
SHOWN = [MORE[0], *BAD[:2]]
ROI = RegionOfInterest(include=(((8.0, 6.0), (70.0, 6.0), (70.0, 58.0), (20.0, 60.0)),))


# ---- what is noted ---------------------------------------------------------------------------------------------------


def of_array(values: Any) -> list[float]:
    """Length, sum, sum of squares, and a sum that depends on the order."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    finite = np.where(np.isfinite(flat), flat, 0.0)
    order = np.cos(np.arange(len(flat)))
    return [len(flat), float(finite.sum()), float(np.square(finite).sum()), float(finite @ order)]


def of_prediction(p: patchbank.Prediction) -> Numbers:
    """Score, decision, map and regions."""
    seen = p.map[~np.isnan(p.map)]
    found: Numbers = {
        "score": p.score,
        "p_value": p.p_value,
        "threshold": p.threshold,
        "map_threshold": p.map_threshold,
        "rejected": p.is_anomalous,
        "regions": [[*r.box, r.area, r.score] for r in p.regions],
        "seen": int(seen.size),
        "map": of_array(seen),
    }
    if seen.size:
        y, x = np.unravel_index(np.nan_to_num(p.map, nan=-np.inf).argmax(), p.map.shape)
        found["peak"] = [int(x), int(y), float(seen.max())]
        try:
            near = p.nearest(int(x), int(y))
        except ValueError:
            return found
        found["nearest"] = [near.image, near.row, near.column, *near.box, near.distance]
    return found


def of_model(model: Any) -> Numbers:
    """Calibration and memory, as the model file has them."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(path := Path(folder, "model.patchbank"))
        tensors = safetensors.numpy.load_file(path)
    memory = {name: value for name, value in tensors.items() if not name.startswith(("calibration.", "thumbnail"))}
    calibration = model.calibration_
    return {
        "scheme": calibration.how,
        "scores": of_array(calibration.scores),
        "peaks": of_array(calibration.peaks),
        "weights": of_array(calibration.weights),
        "images": list(calibration.images),
        "threshold": calibration.threshold,
        "map_threshold": calibration.map_threshold,
        # sorted by content: names may change
        "memory": sorted(of_array(value) for value in memory.values()),
        "vectors": model.memory_vectors,
        "memory_mb": model.memory_mb,
    }


def of(model: Any, shown: list[Image] | None = None) -> Numbers:
    """A fitted model, and its predictions."""
    return {
        "model": of_model(model),
        "predictions": [of_prediction(p) for p in model.predict_many(SHOWN if shown is None else shown)],
    }


def places(explanation: Any) -> list[Any]:
    """Positions, values and neighbours of an explanation."""
    return [
        [p.x, p.y, *p.box, p.value, [[n.image, n.row, n.column, n.distance] for n in p.neighbours]]
        for p in explanation.places
    ]


# ---- the cases -------------------------------------------------------------------------------------------------------

CASES: dict[str, Callable[[], Numbers]] = {}


@dataclass(frozen=True)
class Fit:
    """A method with options, fitted to some images."""

    method: str
    options: dict[str, Any]
    images: int = 12

    def model(self) -> Any:
        """Fitted."""
        options = {"image_size": 64, "threads": 2, "thumbnails_mb": 0.0, **self.options}
        return METHODS[self.method](**options).fit(GOOD[: self.images])

    def __call__(self) -> Numbers:
        return of(self.model())


def fits(method: str, **named: dict[str, Any]) -> None:
    """Cases of one method, by the name of what is special."""
    for name, options in named.items():
        CASES[f"{method}, {name}"] = Fit(method, options)


def case(name: str) -> Callable[[Callable[[], Numbers]], Callable[[], Numbers]]:
    """A case of its own."""

    def keep(function: Callable[[], Numbers]) -> Callable[[], Numbers]:
        CASES[name] = function
        return function

    return keep


_ALL = tuple(METHODS)[:-1]
for _method in _ALL:
    CASES[f"{_method}, defaults"] = Fit(_method, {})
    for _count in (1, 2):
        CASES[f"{_method}, {_count} images"] = Fit(_method, {}, _count)
    if _method != "mahalanobis":
        CASES[f"{_method}, region of interest"] = Fit(_method, {"roi": ROI})
    for _scheme in ("leave-one-out", "held-out", "k-fold", "corrected leave-one-out"):
        CASES[f"{_method}, {_scheme}"] = Fit(_method, {"calibration": _scheme, "false_alarm_rate": 0.1})

fits(
    "patchcore",
    share={"coreset": 0.05},
    size={"bank_size": 50},
    megabytes={"bank_mb": 0.03},
    everything={"coreset": 1.0},
    approximate={"sampler": "approximate", "coreset": 0.1},
    random={"sampler": "random", "coreset": 0.1},
    identity={"sampler": "identity"},
    proxies={"sampler": "proxies", "coreset": 0.05},
    radius={"coreset": 0.3, "coreset_radius": 30.0},
    streamed={"coreset": "stream", "bank_size": 60},
    float16={"bank_dtype": "float16"},
    no_reweighting={"neighbours": 0},
    three_neighbours={"neighbours": 3},
    unbalanced={"balance_levels": False},
    rotations={"augment": "rotations"},
    paper={"geometry": "paper"},
    reference={"aggregation": "reference"},
    patch_1={"patch_size": 1},
    patch_5={"patch_size": 5},
    stride={"stride": 2},
    levels_12={"levels": (1, 2)},
    level_3={"levels": (3,)},
    maximum={"image_score": "max"},
    top={"image_score": "top"},
    narrow={"sigma": 2.0},
    blocked={"search": "blocked"},
    pruned={"search": "pruned"},
    seed_3={"seed": 3, "sampler": "random"},
    random_weights={"weights": "random", "seed": 5},
    torch_runtime={"runtime": "torch"},
    rate_20={"false_alarm_rate": 0.2},
    aligned={"align": True},
    tiles={"tile": 128, "overlap": 64},
)
# until the golden file was made, this was PatchCore(distance="cosine")
_COSINE: dict[str, dict[str, Any]] = {
    "cosine": {"levels": (2,), "image_size": 96},
    "cosine_rotations": {"augment": "rotations", "image_size": 64},
    "cosine_foreground": {"foreground": True, "image_size": 64},
}
for _name, _options in _COSINE.items():
    CASES[f"patchcore, {_name}"] = Fit("anomalydino", _options)
fits(
    "padim",
    diagonal={"covariance": "diagonal"},
    tied={"covariance": "tied"},
    few_channels={"n_features": 10},
    all_channels={"n_features": None, "levels": (2,)},
    stride={"stride": 2},
    patch_3={"patch_size": 3},
    paper={"geometry": "paper", "covariance": "diagonal"},
    seed_3={"seed": 3},
)
fits(
    "fapm",
    one_region={"patch_wise": False},
    one_grid={"layer_wise": False, "stride": 2},
    not_adaptive={"adaptive": False},
    neighbour_units={"adaptive_threshold_unit": "neighbour"},
    larger_spread={"adaptive_threshold": 0.2},
    radius_1={"search_radius": 1},
    weights={"level_weights": (1.0, 2.0)},
    no_reweighting={"neighbours": 0},
    three_regions={"regions": 3, "coreset": 0.3},
    maximum={"image_score": "max"},
)
fits(
    "lmf",
    no_projection={"projection": 0},
    equal={"level_fusion": "equal"},
    greedy={"sampler": "greedy"},
    not_normalised={"normalise": False},
    quarter={"channel_share": 0.25},
    float16={"bank_dtype": "float16"},
    size={"bank_size": 40},
)
fits("spade", three={"k": 3}, float16={"bank_dtype": "float16"}, levels_23={"levels": (2, 3)})
fits("mahalanobis", levels_23={"levels": (2, 3)}, paper={"geometry": "paper"})
fits(
    "subspace",
    variance_90={"variance": 0.9},
    rotations={"augment": "rotations"},
    levels_2={"levels": (2,)},
    maximum={"image_score": "max", "sigma": 3.0},
)


def _small(method: str = "patchcore", images: list[Any] | None = None, **options: Any) -> Any:
    chosen = {"image_size": 64, "threads": 2, "thumbnails_mb": 0.0, **options}
    return METHODS[method](**chosen).fit(GOOD if images is None else images)


@case("groups of three")
def _groups() -> Numbers:
    model = patchbank.PatchCore(image_size=64, threads=2, thumbnails_mb=0.0)
    return of(model.fit(GOOD, groups=[i // 3 for i in range(12)]))


@case("groups of three, k-fold")
def _groups_of_padim() -> Numbers:
    model = patchbank.PaDiM(image_size=64, threads=2, thumbnails_mb=0.0)
    return of(model.fit(GOOD, groups=[i // 3 for i in range(12)]))


@case("copies and other shapes")
def _copies() -> Numbers:
    return of(_small(images=[*GOOD[:5], GOOD[0], drawn(30, (96, 64)), drawn(31, (64, 120))]))


@case("16 bits")
def _deep() -> Numbers:
    def twelve(image: Image) -> NDArray[np.uint16]:
        return image.astype(np.uint16) * 15

    model = _small(images=[twelve(image) for image in GOOD])
    return {"model": of_model(model), "predictions": [of_prediction(model.predict(twelve(i))) for i in SHOWN]}


@case("large images in tiles")
def _tiles() -> Numbers:
    sizes = (160, 192)
    model = _small(images=[drawn(i, sizes) for i in range(4)], tile=128, overlap=64, image_size=None)
    return of(model, [drawn(60, sizes), damaged(61, sizes)])


@case("moved parts, aligned")
def _aligned() -> Numbers:
    images = [drawn(i, (96, 128), shift=i % 4) for i in range(8)]
    roi = RegionOfInterest(include=(((30.0, 10.0), (110.0, 10.0), (110.0, 80.0), (30.0, 80.0)),))
    model = _small(images=images, align=True, roi=roi, image_size=96)
    return of(model, [drawn(60, (96, 128), shift=2), damaged(61, (96, 128))])


@case("region of interest given later")
def _restricted() -> Numbers:
    return of(_small().restrict(ROI))


@case("ensemble of two sizes")
def _sizes() -> Numbers:
    members = [patchbank.PatchCore(image_size=size, threads=2, thumbnails_mb=0.0) for size in (64, 96)]
    return of(patchbank.Ensemble(members=members).fit(GOOD))


@case("ensemble of three methods")
def _methods() -> Numbers:
    small: dict[str, Any] = {"image_size": 64, "threads": 2, "thumbnails_mb": 0.0}
    members = [patchbank.PatchCore(**small), patchbank.PaDiM(**small), patchbank.SubspaceAD(**small)]
    return of(patchbank.Ensemble(members=members).fit(GOOD))


@case("add")
def _add() -> Numbers:
    return of(_small(coreset=0.05).add(MORE[:3]))


@case("add a fair sample, and a defect")
def _teach() -> Numbers:
    model = _small(coreset=0.05).add(MORE[:3], representative=True)
    return of(model.add(BAD[2]))


@case("add to lmf")
def _add_lmf() -> Numbers:
    return of(_small("lmf").add(MORE[:3]))


@case("forget")
def _forget() -> Numbers:
    model = _small()
    names = model.calibration_.images
    return of(model.forget([names[1], names[5]]))


@case("merge")
def _merge() -> Numbers:
    return of(_small(images=GOOD[:6]).merge(_small(images=GOOD[6:])))


@case("merge to a size")
def _merge_sized() -> Numbers:
    return of(_small(images=GOOD[:6]).merge(_small(images=GOOD[4:]), bank_size=70))


@case("add, forget, merge")
def _sequence() -> Numbers:
    model = _small(images=GOOD[:6]).add(MORE[:2])
    return of(model.forget(model.calibration_.images[0]).merge(_small(images=GOOD[6:])))


@case("calibrate with good images")
def _calibrate() -> Numbers:
    return of(_small().calibrate(MORE))


@case("calibrate padim with defects")
def _calibrate_defects() -> Numbers:
    return of(_small("padim").calibrate(MORE, BAD))


@case("calibrate with costs")
def _calibrate_cost() -> Numbers:
    return of(_small().calibrate(MORE, BAD, cost_ratio=20.0))


@case("saved and loaded")
def _loaded() -> Numbers:
    with tempfile.TemporaryDirectory() as folder:
        _small().save(path := Path(folder, "model.patchbank"))
        return of(patchbank.load(path, threads=2))


@case("explanations")
def _explanations() -> Numbers:
    found: Numbers = {}
    for method in ("patchcore", "fapm", "lmf", "spade", "padim"):
        model = _small(method)
        found[method] = places(model.explain(BAD[0])) + places(model.explain(BAD[1], at=(40, 20), count=2))
        if method != "padim":
            found[f"{method}, left out"] = places(model.explain(GOOD[3], without_image=3))
    return found


def _exported(model: Any, to: str, bank: str = "inside") -> Numbers:
    from patchbank.edge import runtime
    from patchbank.export import export

    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder, "out"), to=to, bank=bank, images=SHOWN)
        exported = runtime.load(Path(folder, "out"), threads=2)
        return {"predictions": [of_prediction(exported.predict(image)) for image in SHOWN]}


for _method in _ALL:
    CASES[f"export of {_method}"] = lambda method=_method: _exported(_small(method), "onnx")


@case("export to openvino, bank outside, region of interest")
def _export_openvino() -> Numbers:
    return _exported(_small(roi=ROI), "openvino", "external")


@case("export to torchscript, cosine")
def _export_torchscript() -> Numbers:
    return _exported(_small("anomalydino", image_size=64), "torchscript")


@case("export of an ensemble")
def _export_ensemble() -> Numbers:
    small: dict[str, Any] = {"image_size": 64, "threads": 2, "thumbnails_mb": 0.0}
    members = [patchbank.PatchCore(**small), patchbank.PaDiM(**small)]
    return _exported(patchbank.Ensemble(members=members).fit(GOOD), "onnx")


# ---- plain values ----------------------------------------------------------------------------------------------------


def record(name: str) -> Any:
    """The numbers of a case as JSON would give them back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return json.loads(json.dumps(_plain(CASES[name]())))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return str(float(value))
    return value.item() if isinstance(value, np.generic) else value
