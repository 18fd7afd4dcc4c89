"""What methods that learn weights share."""

from patchbank.training.loop import Outcome, Task, Training, train
from patchbank.training.network import Standard, build
from patchbank.training.session import Session

__all__ = ["Outcome", "Session", "Standard", "Task", "Training", "build", "train"]
