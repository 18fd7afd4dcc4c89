"""What methods that learn weights share."""

from patchbank.training.loop import Outcome, Session, Task, Training, train
from patchbank.training.network import Standard, build

__all__ = ["Outcome", "Session", "Standard", "Task", "Training", "build", "train"]
