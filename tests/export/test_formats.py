"""What a file says of itself, and that it computes what was traced."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from patchbank.export.formats import write_torchscript


class Dividing(nn.Module):
    """Whole numbers: divided, and rounded down."""

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return numbers / 2, torch.div(numbers, 2, rounding_mode="floor")

    def example(self) -> tuple[Tensor]:
        return (torch.tensor([-3, 2, 3]),)


def test_torchscript_divides_whole_numbers(tmp_path: Path) -> None:
    graph = Dividing()
    write_torchscript(graph, tmp_path)  # type: ignore[arg-type]
    loaded = torch.jit.load(tmp_path / "model.pt")
    for found, expected in zip(loaded(*graph.example()), graph(*graph.example()), strict=True):
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()


def test_torchscript_has_the_version_that_torch_gives_it(tmp_path: Path) -> None:
    graph = Dividing()
    write_torchscript(graph, tmp_path)  # type: ignore[arg-type]
    traced = torch.jit.trace(graph, graph.example(), check_trace=False)
    torch.jit.save(traced, tmp_path / "plain.pt")
    versions = [zipfile.ZipFile(tmp_path / name).read(f"{name[:-3]}/version") for name in ("model.pt", "plain.pt")]
    assert versions[0] == versions[1]
