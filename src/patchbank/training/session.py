"""Who hears of the trainings of one fit."""

from __future__ import annotations

from dataclasses import dataclass

from patchbank.errors import Progress
from patchbank.training.checkpoint import Checkpoints


@dataclass
class Session:
    """Who hears of the trainings of one fit, and where they are kept meanwhile.

    Attributes:
        progress: is told of each step.
        checkpoints: where they are kept, None for nowhere.
        fits: how many fits there are, with those on parts of the images.
        of_each: trainings of each, one for each channel.
        stages: trainings that one network takes, such as those of a teacher and of its student.
        number: of the training that goes on.
    """

    progress: Progress | None = None
    checkpoints: Checkpoints | None = None
    fits: int = 1
    of_each: int = 1
    stages: int = 1
    number: int = 0

    def begin(self, fits: int) -> None:
        """A detector begins, which is fitted so often."""
        self.fits, self.of_each, self.stages, self.number = fits, 1, 1, 0

    @property
    def trainings(self) -> int:
        """How many there will be; they share the time."""
        return max(self.fits * self.of_each * self.stages, self.number)

    def tell(self, loss: float, done: int, total: int) -> None:
        """A step is done."""
        if self.progress:
            which = f" {self.number} of {self.trainings}" if self.trainings > 1 else ""
            self.progress(f"training{which}: loss {loss:#.3g}", done, total)
