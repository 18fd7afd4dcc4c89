"""What methods that learn weights share."""

from patchbank.training.loop import Trainable, Training, build, train

__all__ = ["Trainable", "Training", "build", "train"]
