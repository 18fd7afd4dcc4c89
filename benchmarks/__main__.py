"""`make bench`: the table of numbers that every change is judged by.

Baseline and product take turns in one process on the same input; the ratio is the median over the pairs. The greedy
loop and the PRO loop are timed on a part of their steps and scaled up, since every step costs the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import baselines, shapes
from benchmarks.record import environment
from patchbank import FAPM, LMFCore, PatchCore
from patchbank.data import gather
from patchbank.demo.synthetic import draw
from patchbank.fitting import fresh_scorer
from patchbank.memory.coreset.farthest_first import farthest_first, row_norms
from patchbank.memory.coreset.samplers import project
from patchbank.memory.search import make_index
from patchbank.metrics import PixelMetrics

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def paired(baseline: Callable[[], object], product: Callable[[], object], pairs: int, scale: float = 1.0) -> Row:
    """Median seconds of both and the median ratio, the two in turn; `scale` for a baseline that ran a part of its
    steps. A baseline that returns a number has scaled its own seconds."""
    product()  # warm up
    times = []
    for _ in range(pairs):
        started = time.perf_counter()
        scaled = baseline()
        slow = scaled if isinstance(scaled, float) else scale * (time.perf_counter() - started)
        times.append((slow, timed(product)))
    ratios = [a / b for a, b in times]
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "baseline_s": slow,
        "patchbank_s": fast,
        "ratio": statistics.median(ratios),
        "ratios": [round(min(ratios), 2), round(max(ratios), 2)],
        "pairs": pairs,
    }


def drawn(count: int) -> list[np.ndarray]:
    """Good parts of the demo, cut to 224×224."""
    return [draw("weave", None, np.random.default_rng([7, i]))[0][:224, :224].copy() for i in range(count)]


def features_of(images: list[np.ndarray], **options: Any) -> torch.Tensor:
    """Patch features of images at 224."""
    return PatchCore(image_size=224, **options).extractor.collect(gather(images)).stored


def greedy(pairs: int) -> Row:
    """Greedy coreset of 156 800 × 128, 10 %."""
    steps = 300
    points = project(features_of(drawn(200)), 128, seed=0)
    anchor = row_norms(points)
    count, start = len(points) // 10, int(anchor.argmax())
    selected = farthest_first(points, count, anchor)
    literal = baselines.greedy_loop(points, start, steps)
    row = paired(
        lambda: baselines.greedy_loop(points, start, steps),
        lambda: farthest_first(points, count, row_norms(points)),
        pairs,
        scale=count / steps,
    )
    same = sum(a == b for a, b in zip(selected.indices.tolist(), literal, strict=False))
    return row | {
        "must": 8,
        "note": f"{same} of the loop's first {steps} picks are the same (the loop rounds in float32)",
    }


def search(dimension: int, pairs: int) -> Row:
    """Exact nearest neighbour, 784 × 15 680: features of drawn parts."""
    if dimension == 152:
        features = features_of(drawn(61))
    else:  # what the reference aggregation makes of the maps, 1024 numbers, or 512
        features = features_of(drawn(61), aggregation="reference")
        features = torch.nn.functional.adaptive_avg_pool1d(features[:, None], dimension)[:, 0]
    return search_row(features[-784:], features[:47_040:3].contiguous(), pairs)


def search_mtd(root: Path, pairs: int) -> Row:
    """The same with magnetic tiles: a greedy bank, and the patches of tiles that it has not seen."""
    files = sorted(root.rglob("MT_Free/Imgs/*.jpg"))
    features = features_of([str(f) for f in files[:200]])
    bank = features[farthest_first(features, 15_680, row_norms(features)).indices]
    return search_row(features_of([str(f) for f in files[200:202]])[:784], bank, pairs)


def search_noise(pairs: int) -> Row:
    """The same with normal noise: nothing can be excluded."""
    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(n, 152, generator=generator) for n in (784, 15_680))
    return search_row(queries, bank, pairs) | {"must": "–"}


def search_row(queries: torch.Tensor, bank: torch.Tensor, pairs: int) -> Row:
    index = make_index(bank)
    exact = torch.cdist(queries.double(), bank.double()).min(1).values
    error = float(((index.nearest(queries)[0] - exact) / exact).abs().max())
    row = paired(lambda: baselines.nearest_by_distance_matrix(queries, bank), lambda: index.nearest(queries), 3 * pairs)
    return row | {"must": 5, "note": f"{index.name}, largest relative error {error:.1e}"}


def one_image(pairs: int) -> Row:
    """One 224×224 image to score and map at batch 1, bank of 3 136."""
    images = drawn(41)
    model = PatchCore(image_size=224, bank_size=3136).fit(images[:40])
    plain = baselines.PlainPipeline(model.bank_.vectors, sigma=10.0)
    row = paired(lambda: bool(plain(images[40])), lambda: model.predict(images[40]), 10 * pairs)
    return row | {"must": 4, "note": "eager network with batch norms, cdist, bilinear, scipy's Gaussian"}


def metrics(pairs: int) -> Row:
    """AUPRO and pixel AUROC of 583 maps of 224×224."""
    rng = np.random.default_rng(0)
    maps = rng.random((583, 224, 224), dtype=np.float32)
    masks = np.zeros(maps.shape, bool)
    for i in range(0, 583, 2):
        y, x = rng.integers(0, 190, 2)
        masks[i, y : y + 30, x : x + 30] = True
        maps[i, y : y + 30, x : x + 30] += 0.3
    thresholds = 200

    def ours() -> None:
        collected = PixelMetrics()
        for one, mask in zip(maps, masks, strict=True):
            collected.update(one, mask)
        collected.compute()

    def theirs() -> float:
        pro = timed(lambda: [baselines.pro_at(maps, masks, t) for t in (0.3, 0.6, 0.9)]) * thresholds / 3
        return pro + timed(lambda: baselines.pixel_auroc(maps, masks))

    return paired(theirs, ours, pairs) | {"must": 5, "note": f"scikit-learn, and scipy at {thresholds} thresholds"}


def shape_images(pairs: int) -> Row:
    """Plane, part, normals, curvature and all four shape images of 400×400 points, 15 % of them missing."""
    baseline, product, note = shapes.image_row()
    return paired(baseline, product, pairs) | {"must": "≤ 25 ms", "note": note}


def fpfh(pairs: int) -> Row:
    """FPFH of 400×400 points with 36 neighbours each."""
    baseline, product, note = shapes.fpfh_row()
    return paired(baseline, product, pairs) | {"must": "≤ 100 ms", "note": note}


def fapm(search: str, pairs: int) -> Row:
    """Images per second, backbone included, at an equal share of the patches kept; 200 drawn parts."""
    images = drawn(201)
    patchcore = PatchCore(image_size=224, coreset=0.1, search=search).fit(images[:200])
    model = FAPM(image_size=224, coreset=0.1, adaptive=False).fit(images[:200])
    row = paired(lambda: patchcore.predict(images[200]), lambda: model.predict(images[200]), 10 * pairs)
    return row | {"must": 1.88 if search == "blocked" else "–", "note": f"PatchCore searching by {search}"}


def lmf_setup(pairs: int) -> Row:
    """The memory stage of LMF-Core, from features to bank, against the greedy loop on the same features, projected."""
    features = PatchCore(image_size=224).extractor.collect(gather(drawn(200)))
    points = project(features.stored, 128, seed=0)
    start, count, steps = int(row_norms(points).argmax()), len(points) // 10, 100
    model = LMFCore(image_size=224)
    scorer = fresh_scorer(model, model.extractor)
    row = paired(
        lambda: baselines.greedy_loop(points, start, steps),
        lambda: scorer.fit(features),
        pairs,
        count / steps,
    )
    ours = timed(lambda: farthest_first(points, count, row_norms(points)))
    return row | {"must": "–", "note": f"greedy loop; the greedy selection of this project takes {ours:.2g} s"}


_MEMORY = """
import sys, torch
from benchmarks.__main__ import drawn
from patchbank import PatchCore
from patchbank._system.ram import peak_rss_mb, reset_peak
model = PatchCore(image_size=224, coreset=0.1)
images = drawn(200)
model.fit(images[:2])  # libraries and buffers are there
before = reset_peak()
model = model.fit(images)
print(peak_rss_mb() - before, 200 * 784 * 152 * 4 / 1e6)
"""


def memory() -> Row:
    """Peak memory of a fit (156 800 × 152, 10 %) above what the process had, over one copy of the features."""
    done = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True)
    grown, copy = map(float, done.stdout.split())
    return {"ratio": grown / copy, "must": "≤ 1.5", "note": f"{grown:.0f} MB for {copy:.0f} MB of features"}


def refit() -> Row:
    """Two fits with one seed: the same model file, byte for byte, but for the seconds it took."""
    images = drawn(10)
    banks = []
    for _ in range(2):
        model = PatchCore(image_size=224, seed=3).fit(images)
        banks.append(model.bank_.vectors.numpy().tobytes() + model.bank_.provenance.tobytes())
    return {"must": "identical", "note": "identical" if banks[0] == banks[1] else "DIFFERENT"}


def fit_mtd(root: Path) -> Row:
    """`fit` of the full mtd training split, 10 %, default backbone at 224, end to end."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "mtd.patchbank")
        command = [
            sys.executable,
            "-m",
            "patchbank",
            "fit",
            str(root),
            "-o",
            str(model),
            "--coreset-ratio",
            "0.1",
            "--json",
        ]
        started = time.perf_counter()
        done = subprocess.run([*command, "--image-size", "224"], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - started
    stages = json.loads(done.stdout)["fit_seconds"]
    note = ", ".join(f"{stage} {value:.0f} s" for stage, value in stages.items())
    return {"patchbank_s": seconds, "must": "≤ 180 s", "note": note}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="pairs per row")
    parser.add_argument("--mtd", type=Path, help="folder of the Magnetic Tile Defects, for the end-to-end row")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    arguments = parser.parse_args()
    pairs = arguments.pairs
    rows: dict[str, Callable[[], Row]] = {
        "greedy coreset, 156 800 × 128, 10 %": lambda: greedy(pairs),
        "nearest neighbour, 784 × 15 680 × 152": lambda: search(152, pairs),
        "nearest neighbour, 784 × 15 680 × 512": lambda: search(512, pairs),
        "nearest neighbour, 784 × 15 680 × 1024": lambda: search(1024, pairs),
        "nearest neighbour, noise × 152": lambda: search_noise(pairs),
        "one 224×224 image, batch 1, bank 3 136": lambda: one_image(pairs),
        "FAPM against PatchCore, matrix products": lambda: fapm("blocked", pairs),
        "FAPM against PatchCore, lower bounds": lambda: fapm("pruned", pairs),
        "LMF-Core's bank against a greedy one": lambda: lmf_setup(pairs),
        "AUPRO + pixel AUROC, 583 × 224×224": lambda: metrics(pairs),
        "shape images, 400×400": lambda: shape_images(pairs),
        "FPFH, 400×400, 36 neighbours": lambda: fpfh(pairs),
        "peak memory of fit / features": memory,
        "refit with the same seed": refit,
    }
    if arguments.mtd:
        rows["nearest neighbour, magnetic tiles × 152"] = lambda: search_mtd(arguments.mtd, pairs)
        rows["fit of mtd, 761 images, 10 %, at 224"] = lambda: fit_mtd(arguments.mtd)
    results = {}
    print(f"{'work':40} {'baseline':>10} {'patchbank':>10} {'ratio':>7} {'must':>10}  note")
    for name, run in rows.items():
        if arguments.only in name:
            row = results[name] = run()
            slow, fast = (f"{row[k]:.4g} s" if k in row else "" for k in ("baseline_s", "patchbank_s"))
            ratio = f"{row['ratio']:.1f}×" if "ratio" in row else ""
            must = f"{row['must']}×" if isinstance(row["must"], int | float) else row["must"]
            print(f"{name:40} {slow:>10} {fast:>10} {ratio:>7} {must:>10}  {row['note']}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"environment": environment(), "rows": results}, indent=2, ensure_ascii=False)
    if arguments.only:
        return  # the file holds whole runs
    (RESULTS / "cpu.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
