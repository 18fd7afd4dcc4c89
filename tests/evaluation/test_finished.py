"""Finished cells read back from a folder: configurations, their labels, means over seeds, sweeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchbank.errors import DatasetError
from patchbank.evaluation.finished import Summary, read_grid, sweeps
from tests.finished_cells import write_cell


def test_means_and_spreads_are_over_seeds_of_the_mean_over_datasets(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 2))  # seeds × datasets
    for seed, row in enumerate(values):
        for dataset, value in zip("ab", row, strict=True):
            write_cell(tmp_path, dataset, seed=seed, image_auroc=float(value))
    (only,) = read_grid(tmp_path).configurations
    over = only.over(["a", "b"], "image_auroc")
    assert over.mean == pytest.approx(values.mean())
    assert over.spread == pytest.approx(np.std(values.mean(axis=1), ddof=1))
    assert over.seeds == 3
    assert only.over(["a"], "image_auroc").spread == pytest.approx(np.std(values[:, 0], ddof=1))
    assert only.over(["a"], "fit_seconds") == Summary(4.0, 0.0, 3)
    assert only.label == "patchcore"


def test_a_seed_without_all_datasets_does_not_count(tmp_path: Path) -> None:
    write_cell(tmp_path, "a", seed=0, image_auroc=0.8)
    write_cell(tmp_path, "b", seed=0, image_auroc=0.6)
    write_cell(tmp_path, "a", seed=1, image_auroc=0.1)
    write_cell(tmp_path, "b", seed=1, image_auroc=None, aupro=float("nan"))
    (only,) = read_grid(tmp_path).configurations
    assert only.over(["a", "b"], "image_auroc") == Summary(pytest.approx(0.7), None, 1)
    assert only.over(["a", "b"], "aupro").seeds == 1
    assert only.over(["a", "c"], "aupro") is None


def test_labels_say_what_differs_and_nothing_else(tmp_path: Path) -> None:
    write_cell(tmp_path, method="padim")
    for coreset in (None, 0.01, 0.1):
        write_cell(tmp_path, options={"coreset": coreset})
    write_cell(tmp_path, options={"backbone": "resnet50"})
    labels = [c.label for c in read_grid(tmp_path).configurations]
    assert len(set(labels)) == 5
    assert {"padim", "patchcore, efficientnet_lite0", "patchcore, resnet50"} < set(labels)
    assert "patchcore, efficientnet_lite0, coreset 0.01" in labels


def test_one_method_is_not_repeated_and_what_the_geometry_decides_is_left_out(tmp_path: Path) -> None:
    write_cell(tmp_path, options={"geometry": "whole"})
    write_cell(tmp_path, options={"geometry": "paper", "image_size": 224})
    assert [c.label for c in read_grid(tmp_path).configurations] == ["geometry paper", "geometry whole"]


def test_fewer_training_images_are_another_configuration(tmp_path: Path) -> None:
    for dataset, most in (("a", 28), ("b", 210)):
        write_cell(tmp_path / "all", dataset, n_train=most)
        for shots in (1, 5, most):
            write_cell(tmp_path / "few", dataset, n_train=shots, options={"shots": shots})
    assert [c.label for c in read_grid(tmp_path / "all").configurations] == ["patchcore"]
    few = read_grid(tmp_path / "few").configurations
    assert {c.options["images"] for c in few} == {1, 5, "all"}


def test_a_sweep_is_three_values_of_a_number_with_all_else_equal(tmp_path: Path) -> None:
    for coreset in (0.1, None, 0.01, 0.001):
        for method in ("patchcore", "lmf"):
            write_cell(tmp_path, method=method, options={"coreset": coreset, "flag": coreset == 0.1})
    write_cell(tmp_path, options={"image_size": 224, "flag": False})
    assert sweeps(read_grid(tmp_path).configurations) == []  # `flag` differs as well
    for coreset in (0.03, 0.3):
        write_cell(tmp_path, method="lmf", options={"coreset": coreset, "flag": False})
    (found,) = sweeps(read_grid(tmp_path).configurations)
    assert (found.option, found.label) == ("coreset", "lmf, flag False")
    assert [x for x, _ in found.points] == [0.001, 0.01, 0.03, 0.3]
    assert all(c.options["coreset"] == x for x, c in found.points)


def test_an_ensemble_is_told_apart_by_what_its_members_have(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_cell(tmp_path, seed=seed, options={"image_size": 96})
        for size in (224, 384):
            write_cell(tmp_path, seed=seed, options={"image_size": size}, backbones=("a", "b"))
    grid = read_grid(tmp_path)
    assert grid.left_out == ()
    assert [(c.label, c.backbone, c.seeds) for c in grid.configurations] == [
        ("ensemble, image_size 224", "a+b", [0, 1]),
        ("ensemble, image_size 384", "a+b", [0, 1]),
        ("patchcore", "efficientnet_lite0", [0, 1]),
    ]


def test_where_it_ran_is_no_configuration(tmp_path: Path) -> None:
    for seed, threads in enumerate((1, 2, None)):
        write_cell(tmp_path, seed=seed, options={"threads": threads, "memory_budget": seed, "device": f"d{seed}"})
    (only,) = read_grid(tmp_path).configurations
    assert only.seeds == [0, 1, 2]


def test_datasets_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    for i, place in enumerate(("/d/gear/parts", "/d/weave/parts", "/d/weave/x/parts")):
        write_cell(tmp_path, "parts", options={"i": i}, root=place)
    write_cell(tmp_path, "other", root="/d/gear/other")
    assert read_grid(tmp_path).datasets == ("gear/parts", "other", "weave/parts", "x/parts")


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    kept = write_cell(tmp_path)
    write_cell(tmp_path / "elsewhere").rename(tmp_path / "twin")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.json").write_text('{"dataset": "a"}')
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "metrics.json").write_text('{"dataset": ')
    grid = read_grid(tmp_path)
    assert [cell.folder for cell in grid.cells] == [kept]
    reasons = dict(grid.left_out)
    assert reasons.keys() == {"twin", "old", "cut"}
    assert kept.name in reasons["twin"]
    assert "again" in reasons["old"]
    assert "cannot be read" in reasons["cut"]


def test_a_folder_without_cells_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no finished cell"):
        read_grid(tmp_path)
    with pytest.raises(DatasetError, match="no finished cell"):
        read_grid(tmp_path / "absent")
