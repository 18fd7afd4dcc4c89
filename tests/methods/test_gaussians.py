"""PaDiM, Mahalanobis-AD and SubspaceAD against literal versions of their equations, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from patchbank import MahalanobisAD, PaDiM, SubspaceAD
from patchbank.data import Sample
from patchbank.methods.mahalanobis_ad import ledoit_wolf
from tests.conftest import bad_image, good_image

GOOD = [good_image(i) for i in range(12)]
SMALL = {"image_size": 96, "image_score": "max"}


def features(model: PaDiM | MahalanobisAD | SubspaceAD, images: list[np.ndarray]) -> torch.Tensor:
    """N×P×D, as the method gets them."""
    sources = [Sample.of(str(i), image) for i, image in enumerate(images)]
    return torch.stack([item.vectors for item in model.extractor.stream(sources)]).double()


def covariance_of(x: torch.Tensor, kind: str) -> torch.Tensor:
    """N×P×d → P×d×d: the sample covariance, and PaDiM's 0.01·I."""
    centred = x - x.mean(0)
    sample = torch.einsum("npd,npe->pde", centred, centred) / max(len(x) - 1, 1)
    if kind == "diagonal":
        sample = torch.diag_embed(sample.diagonal(dim1=1, dim2=2))
    elif kind == "tied":
        sample = sample.mean(0, keepdim=True).expand_as(sample)
    return sample + 0.01 * torch.eye(x.shape[2], dtype=torch.float64)


def literal_padim(train: torch.Tensor, query: torch.Tensor, kind: str) -> list[float]:
    """The Mahalanobis distance of each position, one by one."""
    mean, inverse = train.mean(0), torch.linalg.inv(covariance_of(train, kind))
    return [float(((q - m) @ s @ (q - m)).sqrt()) for q, m, s in zip(query, mean, inverse, strict=True)]


@pytest.mark.parametrize("kind", ["full", "diagonal", "tied"])
def test_padim_is_the_mahalanobis_distance_at_each_position(kind: str) -> None:
    model = PaDiM(**SMALL, covariance=kind, n_features=20, seed=3).fit(GOOD)
    assert len(set(model.scorer.channels.tolist())) == 20
    train, query = (features(model, images)[:, :, model.scorer.channels] for images in (GOOD, [bad_image(0)]))
    expected = np.array(literal_padim(train, query[0], kind))
    scores = model.scorer.compare(query[0].float(), model.scorer.grid).distances.flatten().numpy()
    assert scores == pytest.approx(expected, rel=2e-3)
    assert model.predict(bad_image(0)).score == pytest.approx(expected.max(), rel=2e-3)


@pytest.mark.parametrize("kind", ["full", "diagonal", "tied"])
@pytest.mark.parametrize("count", [2, 3, 12])
def test_padim_calibrates_with_each_image_left_out(kind: str, count: int) -> None:
    model = PaDiM(**SMALL, covariance=kind, n_features=20).fit(GOOD[:count])
    train = features(model, GOOD[:count])[:, :, model.scorer.channels]
    for i in range(count):
        others = torch.cat([train[:i], train[i + 1 :]])
        assert model.calibration_.scores[i] == pytest.approx(max(literal_padim(others, train[i], kind)), rel=0.01)


def test_channels_are_drawn_by_the_seed() -> None:
    drawn = [PaDiM(**SMALL, n_features=30, seed=seed).fit(GOOD[:2]).scorer.channels.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert PaDiM(**SMALL, n_features=None).fit(GOOD[:2]).scorer.channels.tolist() == list(range(176))


def test_ledoit_wolf_is_that_of_scikit_learn() -> None:
    for n, d in ((5, 12), (40, 12), (400, 3)):
        x = np.random.default_rng(n).standard_normal((n, d)) @ np.diag(np.arange(1, d + 1))
        centred = torch.from_numpy(x - x.mean(0))
        shrinkage, target = ledoit_wolf(centred)
        reference = LedoitWolf().fit(x)
        assert shrinkage == pytest.approx(reference.shrinkage_, rel=1e-6)
        ours = (1 - shrinkage) * (centred.T @ centred / n).numpy() + shrinkage * target * np.eye(d)
        assert ours == pytest.approx(reference.covariance_)


def test_mahalanobis_ad_sums_the_levels() -> None:
    model = MahalanobisAD(image_size=96).fit(GOOD)
    train, query = features(model, GOOD)[:, 0], features(model, [bad_image(0)])[0, 0]
    split = list(model.extractor.backbone.channels)

    def literal(train: torch.Tensor, query: torch.Tensor, rho: list[tuple[float, float]] | None = None) -> float:
        total = 0.0
        for j, (x, q) in enumerate(zip(torch.split(train, split, 1), torch.split(query, split), strict=True)):
            centred = x - x.mean(0)
            shrinkage, target = rho[j] if rho else ledoit_wolf(centred)
            covariance = (1 - shrinkage) * centred.T @ centred / len(x)
            covariance += shrinkage * target * torch.eye(x.shape[1], dtype=torch.float64)
            u = q - x.mean(0)
            total += float((u @ torch.linalg.inv(covariance) @ u).sqrt())
        return total

    assert model.predict(bad_image(0)).score == pytest.approx(literal(train, query), rel=1e-3)
    rho = [ledoit_wolf(x - x.mean(0)) for x in torch.split(train, split, 1)]
    for i in range(len(GOOD)):
        others = torch.cat([train[:i], train[i + 1 :]])
        assert model.calibration_.scores[i] == pytest.approx(literal(others, train[i], rho), rel=1e-3)


def test_pooled_features_are_the_average_of_each_level() -> None:
    model = MahalanobisAD(image_size=96).fit(GOOD[:2])
    from patchbank.features.backbones import open_backbone

    view = model.extractor.geometry.view(96, 128)
    maps = open_backbone("efficientnet_lite0", levels=(1, 2, 3, 4))(torch.from_numpy(view.apply(GOOD[0]))[None])
    expected = torch.cat([m.mean((2, 3))[0] for m in maps])
    assert torch.allclose(features(model, GOOD[:1])[0, 0].float(), expected, rtol=1e-3, atol=1e-4)


def literal_residual(train: torch.Tensor, query: torch.Tensor, variance: float) -> np.ndarray:
    """What the leading principal components of N×D leave of P×D."""
    mean = train.mean(0)
    _, singular, rows = torch.linalg.svd(train - mean, full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum()
    kept = rows[: int((share < variance).sum()) + 1]
    centred = query - mean
    return (centred - centred @ kept.T @ kept).norm(dim=1).numpy()


@pytest.mark.parametrize("variance", [0.5, 0.99])
def test_subspace_ad_is_the_residual_of_a_principal_subspace(variance: float) -> None:
    model = SubspaceAD(image_size=96, variance=variance).fit(GOOD)
    train, query = features(model, GOOD), features(model, [bad_image(0)])[0]
    expected = literal_residual(train.flatten(0, 1), query, variance)
    found = model.scorer.compare(query.float(), (12, 16)).distances.flatten().numpy()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
    top = np.sort(expected)[-max(1, round(0.01 * len(expected))) :]
    assert model.predict(bad_image(0)).score == pytest.approx(top.mean(), rel=1e-3)


def test_subspace_ad_calibrates_without_the_fold_of_an_image() -> None:
    model = SubspaceAD(image_size=96).fit(GOOD)
    train = features(model, GOOD)
    for i in range(len(GOOD)):
        others = train[[k for k in range(len(GOOD)) if k % 10 != i % 10]].flatten(0, 1)
        expected = np.sort(literal_residual(others, train[i], 0.99))[-2:].mean()
        assert model.calibration_.scores[i] == pytest.approx(expected, rel=1e-3)
