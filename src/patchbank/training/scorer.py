"""A scorer whose memory is the weights of a network: what all methods share that learn weights."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from patchbank._system.passing import packed, unpacked
from patchbank.errors import OptionError, Progress
from patchbank.features.planning import Plan, plan_fit
from patchbank.features.store import FeatureStore
from patchbank.scorer import Grid, Levels, Memory, PatchScores, Scorer, masked
from patchbank.training.loop import Outcome, Task, Training, train
from patchbank.training.network import build
from patchbank.training.session import Session

_COPIES = 4  # of the weights: themselves, their gradients, and the two moments of Adam


class TrainedScorer(Scorer):
    """Makes a network, has the loop train it, and scores with it.

    A method says which network, and what is trained (`make_network`, `task`). The network's `forward` takes features
    B×P×D of the patches of images and their grid, and gives scores B×P, or B×rows×columns on a finer grid. All that it
    learned is in its state, statistics as buffers.

    A training image cannot be left out of weights, so calibrations take parts that were not learned from.
    """

    can_leave_out: ClassVar[bool] = False
    learns_weights: ClassVar[bool] = True
    working_bytes: ClassVar[int] = 200_000_000  # of one step beside the weights, for the forecast

    def __init__(self, levels: Levels, training: Training, device: torch.device):
        super().__init__(levels)
        self.training_options, self.session, self._device = training, Session(), device
        self.outcome: Outcome | None = None
        self._held: tuple[Any, ...] = ()  # no module of this one, so that a copy may have another

    def make_network(self) -> nn.Module:
        """The network, its weights not drawn yet."""
        raise NotImplementedError

    def task(self, network: Any, features: FeatureStore) -> Task:
        """What the loop trains, on the features of good images."""
        raise NotImplementedError

    @property
    def network(self) -> Any:
        """The network, frozen."""
        return self._held[0]

    # ---- learn -------------------------------------------------------------------------------------------------------

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        network = sum(self.training_bytes(images, patches))
        return plan_fit(images, patches, self.stored_width, 0, device, budget, network=network)

    @property
    def stored_width(self) -> int:
        """Dimension of the features that are stored for it."""
        return self.levels.dimension

    def training_bytes(self, images: int, patches: int) -> tuple[int, int]:
        with torch.device("meta"):
            weights = sum(4 * parameter.numel() for parameter in self.make_network().parameters())
        return weights, (_COPIES - 1) * weights + self.step_bytes(images, patches // max(images, 1))

    def step_bytes(self, images: int, patches: int) -> int:
        """Bytes of one step beside the weights, for so many images of so many patches; for the forecast."""
        return self.working_bytes

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """From the stored features; `session` hears of it."""
        network = build(self.make_network, self.training_options.seed).to(self._device)
        self.outcome = train(self.task(network, features), self.training_options, self.session, features.content)
        self._held = (network,)
        return self

    def begin(self, session: Session) -> None:
        self.session = session

    def release(self) -> None:
        self.session = Session()

    # ---- score -------------------------------------------------------------------------------------------------------

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        batch = points if points.ndim == 3 else points[None]
        with torch.no_grad():
            found = self.scores(batch, grid, inspected)
        if found.ndim == 2:
            found = masked(found if points.ndim == 3 else found[0], inspected)
        elif points.ndim == 2:
            found = found[0]
        return PatchScores(found)

    def scores(self, batch: Tensor, grid: Grid, inspected: Tensor | None) -> Tensor:
        """Features B×P×D → scores as of the network. `inspected`: as of `compare`, which masks the rest."""
        found: Tensor = self.network(batch, grid)
        return found

    # ---- what it knows, files, exports -------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        return {} if self.outcome is None else vars(self.outcome)

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors = {f"network.{name}": value.detach() for name, value in self.network.state_dict().items()}
        return tensors, {} if self.outcome is None else {"outcome": vars(self.outcome)}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self._held = (self._filled({name.removeprefix("network."): value for name, value in tensors.items()}),)
        self.outcome = Outcome(**values["outcome"]) if "outcome" in values else None
        return self

    def _filled(self, weights: Memory) -> nn.Module:
        with torch.device("meta"):
            network = self.make_network()
        network.load_state_dict({name: weights[name] for name in network.state_dict()}, assign=True)
        return network.to(self._device).eval().requires_grad_(False)

    def on_cpu(self) -> Self:
        scorer = super().on_cpu()
        scorer._held = tuple(copy.deepcopy(network).to("cpu") for network in self._held)
        return scorer

    def __getstate__(self) -> dict[str, Any]:
        passed = self.copied()
        passed._held, passed.session = (), Session()
        weights = packed(self.network.state_dict()) if self._held else None
        return {**Scorer.__getstate__(passed), "weights": weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        weights = unpacked(state.pop("weights"))
        super().__setstate__(state)
        self._held = () if weights is None else (self._filled(weights),)

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        state = self.network.state_dict()
        if len({_flat(name) for name in state}) < len(state):
            raise OptionError("this network cannot be exported: two of its weights would have one name")
        memory = {_flat(name): value.cpu() for name, value in state.items() if value.is_floating_point()}
        return memory, {}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = self.copied()
        names = [name for name, value in self.network.state_dict().items() if value.is_floating_point()]
        scorer._held = (_with_tensors(self.network, {name: memory[_flat(name)] for name in names}),)
        return scorer


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _with_tensors(network: nn.Module, tensors: Memory) -> nn.Module:
    """A copy of a network with other tensors in the place of its own. `torch.func` refuses to do it for a tracer."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    network = copy.deepcopy(network, shared)
    for name, tensor in tensors.items():
        path, _, own = name.rpartition(".")
        module = network.get_submodule(path)
        delattr(module, own)
        setattr(module, own, tensor)
    return network
