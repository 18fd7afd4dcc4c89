"""Point-MAE's encoder against the same network written with numpy loops, and its checkpoints."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from patchbank.errors import OptionError, WeightsError
from patchbank.features.point_mae import DIMENSION, PointMAE, load_point_mae, point_features
from patchbank.features.points import interpolate
from patchbank.training import build

Weights = dict[str, np.ndarray]
erf = np.vectorize(math.erf)


@lru_cache
def encoder(centres: int = 9, neighbours: int = 6) -> PointMAE:
    """Random weights; those of normalising layers and their statistics too, so that each of them shows."""
    model = build(lambda: PointMAE(centres, neighbours), 0).eval()
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if "norm" in name or "conv.1." in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def weights_of(model: PointMAE) -> Weights:
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def layer_norm(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return normal * w[f"{name}.weight"] + w[f"{name}.bias"]


def pointwise(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    """Two convolutions of width 1 with batch-norm in eval mode and ReLU between them; x: M×C."""
    x = x @ w[f"{name}.0.weight"][:, :, 0].T + w[f"{name}.0.bias"]
    x = (x - w[f"{name}.1.running_mean"]) / np.sqrt(w[f"{name}.1.running_var"] + 1e-5)
    x = np.maximum(x * w[f"{name}.1.weight"] + w[f"{name}.1.bias"], 0)
    return x @ w[f"{name}.3.weight"][:, :, 0].T + w[f"{name}.3.bias"]


def attention(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    heads = []
    qkv = x @ w[f"{name}.qkv.weight"].T
    for head in range(6):
        q, k, v = (qkv[:, part * 384 + head * 64 : part * 384 + (head + 1) * 64] for part in range(3))
        logits = q @ k.T / 8
        attending = np.exp(logits - logits.max(1, keepdims=True))
        heads.append(attending / attending.sum(1, keepdims=True) @ v)
    return np.concatenate(heads, 1) @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]


def literal(points: np.ndarray, w: Weights, centres: int, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    selected = [0]
    while len(selected) < centres:
        selected.append(int(np.argmax([min(math.dist(p, points[s]) for s in selected) for p in points])))
    tokens = []
    for centre in points[selected]:
        nearest = np.argsort([math.dist(p, centre) for p in points], kind="stable")[:neighbours]
        each = pointwise(points[nearest] - centre, w, "encoder.first_conv")
        both = np.concatenate([np.repeat(each.max(0)[None], len(each), 0), each], 1)
        tokens.append(pointwise(both, w, "encoder.second_conv").max(0))
    position = gelu(points[selected] @ w["pos_embed.0.weight"].T + w["pos_embed.0.bias"])
    position = position @ w["pos_embed.2.weight"].T + w["pos_embed.2.bias"]
    x, outputs = np.stack(tokens), []
    for number in range(12):
        name = f"blocks.blocks.{number}"
        x = x + position
        x = x + attention(layer_norm(x, w, f"{name}.norm1"), w, f"{name}.attn")
        hidden = layer_norm(x, w, f"{name}.norm2") @ w[f"{name}.mlp.fc1.weight"].T + w[f"{name}.mlp.fc1.bias"]
        x = x + gelu(hidden) @ w[f"{name}.mlp.fc2.weight"].T + w[f"{name}.mlp.fc2.bias"]
        if number in (3, 7, 11):
            outputs.append(layer_norm(x, w, "norm"))
    return points[selected], np.concatenate(outputs, 1)


def surface(height: int = 20, width: int = 26) -> tuple[torch.Tensor, torch.Tensor]:
    """H×W×3 millimetres of a bumpy plate half a metre away, and where it has points."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:height, :width]
    z = 500 + 3 * np.sin(row / 3) + 2 * np.cos(column / 4) + rng.normal(0, 0.05, row.shape)
    valid = rng.random(row.shape) > 0.2
    valid[:6, :9] = False
    xyz = np.stack([column * 2.0, row * 2.0, z], 2) * valid[..., None]
    return torch.from_numpy(xyz.astype(np.float32)), torch.from_numpy(valid)


def test_encoder() -> None:
    model = encoder()
    xyz, valid = surface()
    points = xyz[valid] / 1000
    with torch.inference_mode():
        centres, features = model(points)
    expected_centres, expected = literal(points.double().numpy(), weights_of(model), 9, 6)
    assert features.shape == (9, DIMENSION)
    assert np.allclose(centres, expected_centres)
    assert np.allclose(features, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(5, 7), (3, 3), (20, 26)])
def test_point_features_are_averages_over_valid_pixels(size: tuple[int, int]) -> None:
    model = encoder()
    xyz, valid = surface()
    grid, mask = point_features(model, xyz, valid, size)
    points = xyz[valid] / 1000
    with torch.inference_mode():
        centres, features = model(points)
    each = torch.zeros(*valid.shape, DIMENSION)
    each[valid] = interpolate(centres, features, points)
    for row in range(size[0]):
        for column in range(size[1]):
            members = [
                each[r, c]
                for r in range(20)
                for c in range(26)
                if valid[r, c] and r * size[0] // 20 == row and c * size[1] // 26 == column
            ]
            assert mask[row, column] == bool(members)
            expected = torch.stack(members).mean(0) if members else torch.zeros(DIMENSION)
            assert torch.allclose(grid[row, column], expected, atol=1e-4)


def test_a_size_is_both_sides() -> None:
    xyz, valid = surface()
    grid, mask = point_features(encoder(), xyz, valid, 4)
    assert grid.shape == (4, 4, DIMENSION)
    assert mask.shape == (4, 4)


def test_no_points_no_features() -> None:
    grid, mask = point_features(encoder(), torch.zeros(8, 8, 3), torch.zeros(8, 8, dtype=torch.bool), 2)
    assert not mask.any()
    assert not grid.any()


def test_fewer_points_than_centres() -> None:
    xyz, valid = surface(3, 12)
    grid, mask = point_features(encoder(60, 40), xyz, torch.ones_like(valid), 1)
    assert mask.all()
    assert grid.isfinite().all()


def as_published(model: PointMAE) -> dict[str, torch.Tensor]:
    state = {f"module.MAE_encoder.{name}": value for name, value in model.state_dict().items()}
    return state | {"module.mask_token": torch.zeros(1, 1, 384), "module.MAE_decoder.norm.weight": torch.ones(384)}


def plain(path: Path, model: PointMAE) -> None:
    torch.save(model.state_dict(), path)


def published(path: Path, model: PointMAE) -> None:
    torch.save({"base_model": as_published(model), "epoch": 300, "metrics": {"acc": np.float64(92.1)}}, path)


def of_old_numpy(path: Path, model: PointMAE) -> None:
    """As numpy 1 named what reads a number."""
    published(path, model)
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data.replace(b"numpy._core", b"numpy.core") if name.endswith(".pkl") else data)


def of_classifier(path: Path, model: PointMAE) -> None:
    torch.save({"base_model": {f"base_model.{n}": v for n, v in model.state_dict().items()}}, path)


def safe(path: Path, model: PointMAE) -> None:
    save_file(model.state_dict(), path)


@pytest.mark.parametrize("write", [plain, published, of_old_numpy, of_classifier, safe])
def test_checkpoints(tmp_path: Path, write: Callable[[Path, PointMAE], None]) -> None:
    path, model = tmp_path / f"weights.{'safetensors' if write is safe else 'pth'}", encoder()
    write(path, model)
    loaded = load_point_mae(path, 9, 6)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    xyz, valid = surface()
    with torch.inference_mode():
        assert torch.equal(loaded(xyz[valid])[1], model(xyz[valid])[1])


def test_a_wrong_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    state = encoder().state_dict()
    del state["norm.bias"]
    state["blocks.blocks.3.norm1.bias"] = torch.zeros(7)
    torch.save(state | {"head.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(OptionError, match=r"weights\.pth: .*missing norm\.bias; unexpected head\.weight; of another"):
        load_point_mae(tmp_path / "weights.pth")
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(OptionError, match=r"missing encoder\.first_conv\.0\.weight, .* and \d+ more; unexpected a\)"):
        load_point_mae(tmp_path / "weights.pth")


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(_Harmful.at),)

    at = Path()


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    _Harmful.at = tmp_path / "made"
    torch.save({"base_model": as_published(encoder()), "metrics": _Harmful()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth: cannot be read"):
        load_point_mae(tmp_path / "weights.pth")
    assert not _Harmful.at.exists()
    with pytest.raises(WeightsError, match=r"no\.pth: no such weight file"):
        load_point_mae(tmp_path / "no.pth")
