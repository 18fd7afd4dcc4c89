"""What is passed between processes, or copied: memories as plain arrays, without what each process makes for itself.

Torch would move tensors that are passed to another process into memory that both share; arrays are copied.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class _Packed:
    """A tensor as an array, and the device that it was on."""

    values: NDArray[Any]
    device: str

    def tensor(self) -> Tensor:
        # a copy: products round differently where a matrix does not begin at a multiple of a cache line
        return torch.from_numpy(self.values).clone().to(self.device)


def packed(value: Any) -> Any:
    """The value with every tensor in it, in lists, tuples and dictionaries too, as an array."""
    if isinstance(value, Tensor):
        return _Packed(value.detach().cpu().numpy(), str(value.device))
    if isinstance(value, dict):
        return {key: packed(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(packed(item) for item in value)
    return value


def unpacked(value: Any) -> Any:
    """The inverse of `packed`."""
    if isinstance(value, _Packed):
        return value.tensor()
    if isinstance(value, dict):
        return {key: unpacked(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(unpacked(item) for item in value)
    return value


class FieldsOnly:
    """A frozen dataclass that is passed as its fields: what it has made of them is made again."""

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: packed(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(unpacked(state))
