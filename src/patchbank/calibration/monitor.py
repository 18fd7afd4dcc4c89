"""Who hears of a fit while it runs, and how long its stages took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patchbank.errors import OnError, Progress
from patchbank.features.planning import Plan

if TYPE_CHECKING:
    from patchbank.training.session import Session


@dataclass
class FitMonitor:
    """The callbacks of `Detector.fit`; `seconds` by stage; `where` the features of the last plan go; `finds_groups`:
    whether near-copies among the images are looked for; `session`: of scorers that learn weights, None where
    nobody hears of it; `labels`: of the part that each image shows, by name, once the fit is done."""

    on_error: OnError
    progress: Progress | None = None
    on_plan: Callable[[Plan], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    where: str = ""
    finds_groups: bool = False
    session: Session | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def tell(self, plan: Plan) -> None:
        """Where features are going to go."""
        self.where = plan.where
        if self.on_plan:
            self.on_plan(plan)

    def inside(self) -> FitMonitor:
        """For a fit within this one: its stages are one stage here, and its errors are told by the other pass."""
        return FitMonitor(lambda name, error: None, self.progress, session=self.session)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
