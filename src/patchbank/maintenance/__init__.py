"""Changes to a fitted model: another threshold, a memory that grows, shrinks or is merged, and the record of them.

Each function returns a new `Fitted`; the detector that it is given does not change.
"""

from patchbank.maintenance.bank import add, forget
from patchbank.maintenance.merging import merge
from patchbank.maintenance.record import known_images, noted, tell_apart
from patchbank.maintenance.threshold import calibrate

__all__ = ["add", "calibrate", "forget", "known_images", "merge", "noted", "tell_apart"]
