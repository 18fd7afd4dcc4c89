"""FAPM, LMF-Core and SPADE against literal versions of their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from patchbank import FAPM, SPADE, LMFCore
from patchbank.data import Sample
from patchbank.features.backbones import open_backbone
from patchbank.memory.region_grid import RegionGrid
from patchbank.memory.search.batched import BatchedBanks
from patchbank.methods.fapm import cluster_spread
from tests.conftest import bad_image, good_image

GOOD = [good_image(i) for i in range(6)]
SMALL = {"image_size": 96}


def maps_of(levels: tuple[int, ...], image: np.ndarray) -> list[torch.Tensor]:
    """The network's maps of an image of 96×128 pixels, C×h×w in float64."""
    backbone = open_backbone("efficientnet_lite0", levels=levels)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
    return [m[0].double() for m in backbone(pixels[None])]


def averaged(feature_map: torch.Tensor) -> torch.Tensor:
    """The 3×3 mean with zeros beside the map, as a loop."""
    channels, rows, columns = feature_map.shape
    padded = torch.zeros(channels, rows + 2, columns + 2, dtype=torch.float64)
    padded[:, 1:-1, 1:-1] = feature_map
    return sum(padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)) / 9


def features_of(model: FAPM | LMFCore | SPADE, images: list[np.ndarray]) -> list[torch.Tensor]:
    sources = [Sample.of(str(i), image) for i, image in enumerate(images)]
    return [item.vectors for item in model.extractor.stream(sources)]


def test_cluster_spread_is_equation_1() -> None:
    squared = np.array([0.0, 0.3, 1.0986, 5.0, 1e6])
    expected = [1 - 2 / (1 + math.exp(s)) for s in squared[:4]] + [1.0]
    assert cluster_spread(squared) == pytest.approx(expected)


def test_regions_cover_a_grid_of_any_size() -> None:
    for grid in ((14, 14), (24, 32), (9, 40), (7, 7)):
        regions = RegionGrid(7, 7)
        of = regions.of_cells(grid).reshape(grid)
        for (row, column), region in np.ndenumerate(of):
            assert region == (row * 7 // grid[0]) * 7 + column * 7 // grid[1]
        cells = regions.cells(grid)
        assert sorted(cells[cells >= 0].tolist()) == list(range(grid[0] * grid[1]))
        for region, row in enumerate(cells.tolist()):
            assert {int(of.ravel()[c]) for c in row if c >= 0} == {region}
    assert RegionGrid(7, 7).around(0, 1) == [0, 1, 7, 8]
    assert RegionGrid(7, 7).around(24, 0) == [24]
    assert len(RegionGrid(7, 7).around(24, 2)) == 25


def test_batched_search_is_the_search_of_each_bank() -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(60, 5, generator=rng)
    members = [torch.arange(0, 20), torch.arange(15, 60), torch.tensor([3]), torch.tensor([], dtype=torch.int64)]
    queries = torch.randn(4, 7, 5, generator=rng)
    banks = BatchedBanks.of(vectors, members)
    excluded = torch.zeros(60, dtype=torch.bool)
    excluded[[2, 3, 30]] = True
    for without in (None, excluded):
        distances, numbers = banks.nearest(queries, without)
        for g, rows in enumerate(members):
            left = [r for r in rows.tolist() if without is None or not without[r]]
            for q in range(7):
                if not left:
                    assert distances[g, q] == math.inf
                    continue
                expected = [float((queries[g, q] - vectors[r]).norm()) for r in left]
                assert float(distances[g, q]) == pytest.approx(min(expected), rel=1e-5)
                assert int(numbers[g, q]) == left[int(np.argmin(expected))]


@pytest.mark.parametrize("options", [{}, {"search_radius": 1}, {"patch_wise": False}, {"level_weights": (0.5, 2.0)},
                                     {"adaptive": False}, {"neighbours": 0},
                                     {"adaptive_threshold_unit": "neighbour"}])  # fmt: skip
def test_fapm_compares_each_vector_with_its_own_region(options: dict[str, object]) -> None:
    model = FAPM(**SMALL, regions=3, image_score="max", **options).fit(GOOD)
    assert model.scorer.banks[0].regions == (RegionGrid(1, 1) if "patch_wise" in options else RegionGrid(3, 3))
    weights = options.get("level_weights", (1.0, 1.0))
    total, image = np.zeros((12, 16)), 0.0
    for j, (feature_map, banks) in enumerate(zip(maps_of((2, 3), bad_image(0)), model.scorer.banks, strict=True)):
        local = averaged(feature_map)
        _, rows, columns = local.shape
        sides = [banks.regions.rows, banks.regions.columns]
        best = np.zeros((rows, columns))
        closest = {}
        for r in range(rows):
            for c in range(columns):
                # the region of the cell of the deepest level that the vector lies in
                cell = (r * 6 // rows, c * 8 // columns)
                here = (cell[0] * sides[0] // 6, cell[1] * sides[1] // 8)
                near = [
                    (there // sides[1], there % sides[1]) for there in range(sides[0] * sides[1])
                    if max(abs(there // sides[1] - here[0]), abs(there % sides[1] - here[1])) <= model.search_radius
                ]  # fmt: skip
                mine = np.isin(banks.region, [a * sides[1] + b for a, b in near])
                away = (banks.vectors[torch.from_numpy(mine)].double() - local[:, r, c]).norm(dim=1)
                best[r, c], closest[r, c] = float(away.min()), np.sort(away.numpy())
        total += weights[j] * best.repeat(12 // rows, 0).repeat(16 // columns, 1)
        worst = closest[np.unravel_index(best.argmax(), best.shape)][: model.neighbours]
        factor = 1 - 1 / np.exp(worst - worst[0]).sum() if model.neighbours else 1.0
        image += weights[j] * factor * best.max()
    scores = model.scorer.compare(features_of(model, [bad_image(0)])[0], (6, 8))
    assert scores.distances.numpy() == pytest.approx(total, rel=1e-3, abs=1e-3)
    assert model.predict(bad_image(0)).score == pytest.approx(image, rel=2e-3)


def greedy(points: torch.Tensor, count: int) -> list[int]:
    matrix = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    anchor, chosen = torch.norm(matrix, dim=1), []
    for _ in range(count):
        chosen.append(int(anchor.argmax()))
        anchor = torch.minimum(anchor, matrix[:, chosen[-1]])
        anchor[chosen] = -1
    return chosen


def test_fapm_banks_are_greedy_coresets_of_each_region_and_level() -> None:
    model = FAPM(**SMALL, regions=2, coreset=0.1).fit(GOOD)
    all_maps = [[averaged(m) for m in maps_of((2, 3), image)] for image in GOOD]
    doubled = 0
    for j, banks in enumerate(model.scorer.banks):
        _, rows, columns = all_maps[0][j].shape
        for region in range(4):
            inside = [
                (i, r, c) for i in range(len(GOOD)) for r in range(rows) for c in range(columns)
                if (r * 2 // rows) * 2 + c * 2 // columns == region
            ]  # fmt: skip
            kept = banks.provenance[banks.region == region]
            ratio = 2 if banks.doubled[region] else 1
            doubled += ratio - 1
            assert len(kept) == int(len(inside) * 0.1) * ratio
            points = torch.stack([all_maps[i][j][:, r, c] for i, r, c in inside])
            assert {tuple(row) for row in kept.tolist()} == {inside[k] for k in greedy(points, len(kept))}
            for vector, (i, r, c) in zip(banks.vectors[torch.from_numpy(banks.region == region)], kept, strict=True):
                assert torch.allclose(vector.double(), all_maps[i][j][:, r, c], rtol=1e-3, atol=1e-3)
    assert 0 < doubled < 8, "both kinds of region should be here"


def test_fapm_ablation_switches_change_what_is_stored() -> None:
    stored = {}
    for patch_wise in (True, False):
        for layer_wise in (True, False):
            model = FAPM(**SMALL, patch_wise=patch_wise, layer_wise=layer_wise, adaptive=False).fit(GOOD)
            stored[patch_wise, layer_wise] = [tuple(b.vectors.shape) for b in model.scorer.banks]
            assert model.predict(good_image(50)).score < model.predict(bad_image(60)).score
    assert stored[False, False] == [(115, 152)]  # 10 % of 6 × 12 × 16
    assert stored[False, True] == [(115, 40), (28, 112)]
    assert [d for _, d in stored[True, True]] == [40, 112]


def test_lmf_core_is_a_fused_projected_random_bank() -> None:
    model = LMFCore(**SMALL, image_score="max", neighbours=0, channel_share=0.4, projection=32, seed=5).fit(GOOD)
    x = torch.cat([features.double() for features in features_of(model, GOOD)])
    parts, weights = [], []
    for level in torch.split(x, [40, 112], 1):
        variance = level.var(0)
        weights.append(1 / float(variance.mean()))
        top = variance.argsort(descending=True)[: math.ceil(0.4 * level.shape[1])]
        parts.append((level, top))
    order = torch.cat([parts[0][1], 40 + parts[1][1]])
    standardised = [(level[:, top] - level[:, top].mean(0)) / level[:, top].std(0) for level, top in parts]
    fused = torch.cat([w / sum(weights) * z for w, z in zip(weights, standardised, strict=True)], 1)
    random = torch.randn(152, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z = fused @ random[order] / 32**0.5
    rows = (model.bank_.provenance * [192, 16, 1]).sum(1)
    assert len(set(rows.tolist())) == len(rows) == 115
    assert torch.allclose(model.bank_.vectors.double(), z[rows], rtol=1e-3, atol=1e-4)
    query = features_of(model, [bad_image(0)])[0]
    vector = model.scorer.prepare(query).double()
    score = max(float((v - model.bank_.vectors.double()).norm(dim=1).min()) for v in vector)
    mu, sigma = model.scorer.normal
    assert model.predict(bad_image(0)).score == pytest.approx((score - mu) / sigma, rel=1e-3)
    assert model.calibration_.scores.mean() == pytest.approx(0, abs=1e-6)
    assert model.calibration_.scores.std(ddof=1) == pytest.approx(1)


def test_lmf_core_options() -> None:
    assert LMFCore(**SMALL, projection=0).fit(GOOD).bank_.vectors.shape == (115, 152)
    assert LMFCore(**SMALL, bank_mb=0.02).fit(GOOD).bank_.vectors.shape == (39, 128)
    assert LMFCore(**SMALL, normalise=False).fit(GOOD).scorer.normal == (0.0, 1.0)
    equal = LMFCore(**SMALL, level_fusion="equal", channel_share=1.0, projection=0).fit(GOOD)
    assert (equal.scorer.matrix.diagonal() > 0).all()
    greedy_bank = LMFCore(**SMALL, sampler="greedy", bank_size=30).fit(GOOD).bank_
    drawn = LMFCore(**SMALL, bank_size=30).fit(GOOD)
    assert len(greedy_bank) == 30
    everything = torch.cat([drawn.scorer.prepare(f) for f in features_of(drawn, GOOD)])
    reach = [float(torch.cdist(everything, b.vectors).min(1).values.max()) for b in (greedy_bank, drawn.bank_)]
    assert reach[0] < reach[1]


def test_spade_finds_images_then_pixels() -> None:
    model = SPADE(**SMALL, k=2).fit(GOOD)
    train, query = ([maps_of((1, 2, 3, 4), image) for image in images] for images in (GOOD, [bad_image(0)]))

    def pixels(maps: list[torch.Tensor]) -> torch.Tensor:
        same = [torch.nn.functional.interpolate(m[None], maps[0].shape[1:], mode="bilinear")[0] for m in maps[:3]]
        return torch.cat(same).flatten(1).T

    def compare(query: list[torch.Tensor], others: list[list[torch.Tensor]]) -> tuple[float, np.ndarray]:
        away = [float((query[3].mean((1, 2)) - other[3].mean((1, 2))).norm()) for other in others]
        closest = np.argsort(away)[:2]
        gallery = torch.cat([pixels(others[i]) for i in closest])
        matrix = torch.cdist(pixels(query), gallery, compute_mode="donot_use_mm_for_euclid_dist")
        return float(np.mean([away[i] for i in closest])), matrix.min(1).values.numpy()

    score, distances = compare(query[0], train)
    found = model.scorer.compare(features_of(model, [bad_image(0)])[0], (3, 4))
    assert float(found.image) == pytest.approx(score, rel=1e-3)
    assert found.distances.flatten().numpy() == pytest.approx(distances, rel=2e-3, abs=1e-2)
    for i in (0, 4):
        assert model.calibration_.scores[i] == pytest.approx(compare(train[i], train[:i] + train[i + 1 :])[0], rel=1e-3)
    half = SPADE(**SMALL, k=2, bank_dtype="float16").fit(GOOD)
    assert half.memory_mb < 0.6 * model.memory_mb
    assert half.predict(bad_image(0)).score == pytest.approx(score, rel=0.01)
