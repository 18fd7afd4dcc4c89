"""An unfinished training on disk: what a later run needs to end with the weights of an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from patchbank._system.files import reason, replacing, spelled
from patchbank.errors import ModelFileError, notify

_KEY = "patchbank-training"
_DIGITS = 20  # of the digest that names a file
_OWN = re.compile(rf"\.?[0-9a-f]{{{_DIGITS}}}\.safetensors(\..*\.tmp)?")  # and what a killed process left of one


@dataclass
class State:
    """Where a training stands.

    Attributes:
        network, optimisers, generator: what it changes.
        values: everything else, as plain values.
    """

    network: nn.Module
    optimisers: Sequence[torch.optim.Optimizer]
    generator: torch.Generator
    values: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by name."""
        found = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        found["generator"] = self.generator.get_state()
        for number, optimiser in enumerate(self.optimisers):
            for parameter, of_parameter in optimiser.state_dict()["state"].items():
                for name, value in of_parameter.items():
                    found[f"optimiser/{number}/{parameter}/{name}"] = torch.as_tensor(value)
        return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        names = self.network.state_dict()
        self.network.load_state_dict({name: tensors[f"network/{name}"] for name in names})
        self.generator.set_state(tensors["generator"])
        for number, optimiser in enumerate(self.optimisers):
            states: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith(f"optimiser/{number}/"):
                    parameter, key = name.split("/")[2:]
                    states.setdefault(int(parameter), {})[key] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": states, "param_groups": groups})


@dataclass
class Checkpoints:
    """The unfinished trainings of one fit, which may have several: one file for each in a folder.

    Attributes:
        folder: where they lie.
        resume: whether those that are there are gone on with.
        identity: all that decides what is learned, beside the images.
        found: how many were gone on with.
    """

    folder: Path
    resume: bool = False
    identity: str = ""
    found: int = 0
    _told: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept there."""
        return not any(path.suffix == ".safetensors" for path in self._own())

    def _own(self) -> list[Path]:
        """The files of trainings in the folder; those of others stay as they are."""
        return [path for path in self.folder.iterdir() if _OWN.fullmatch(path.name)] if self.folder.is_dir() else []

    def path(self, learned: str) -> Path:
        """The file of one training. `learned`: from what."""
        digest = hashlib.sha256(f"{self.identity}\n{learned}".encode()).hexdigest()
        return self.folder / f"{digest[:_DIGITS]}.safetensors"

    def save(self, learned: str, state: State) -> None:
        """Write where a training stands. Where that fails it is said once, and the training goes on."""
        path = self.path(learned)
        try:
            with replacing(path) as temporary, spelled(temporary) as name:
                save_file(state.tensors(), name, metadata={_KEY: json.dumps(state.values)})
        except (OSError, SafetensorError, ValueError) as error:  # a full disk is no OSError to safetensors
            if not self._told:
                notify(f"{path}: cannot be written ({reason(error)}): training goes on, and could not be resumed")
            self._told = True

    def load(self, learned: str, state: State) -> bool:
        """Bring a training to where it stood; whether there was something to go on with.

        Raises:
            ModelFileError: the file is damaged.
        """
        path = self.path(learned)
        if not self.resume or not path.exists():
            return False
        try:
            with spelled(path) as name, safe_open(name, framework="pt") as file:
                values = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
            state.restore(tensors)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelFileError(
                f"{path}: is no intact checkpoint of this training: remove it, or leave out --resume"
            ) from error
        state.values.update(values)
        self.found += 1
        return True

    def finish(self) -> None:
        """The fit is complete: nothing is left to go on with. Where nothing could be gone on with that is said."""
        if self.resume and not self.found:
            notify(
                f"{self.folder}: what is kept there is another training (other images, options or versions): all was "
                "learned anew"
            )
        for path in self._own():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
