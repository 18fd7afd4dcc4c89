"""What a fit on a cluster takes, before it starts: one model for `patchbank plan` and for the simulation.

A fit has three stages. Features: each worker computes those of its images. Selection: rounds with a barrier each, in
which workers bring bounds up to date and tell candidates, the driver selects among these, and centres are sent to all.
Calibration: good images are searched in the bank, each where its features are.

A selection compares every point with every centre, and excludes most of these pairs by a few coordinates. Their number
is N·K, so a centre costs the more the more points there are; and a pair costs the more the more centres there are,
since these no longer fit into the processor's cache. `python -m benchmarks.distributed` has forecasts beside
measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from patchbank.features.planning import PER_PATCH
from patchbank.memory.coreset.sharded import POOL

_SCANS = 3  # of all bounds in a round
# least squares over 21 selections of 4 000 to 60 000 centres among 100 000 to 1 000 000 points, 13 % off on average
FEW, _CROWDING, _CRAMMING = 10_000, 0.25, 0.1
_MESSAGE = 0.0005  # seconds of the driver for a message to one worker and its answer (Ray 2.60)
_KEPT_BACK = 0.2  # of the images, where they are held out for the calibration
_HELD_OUT_FROM = 2500  # images, at a false-alarm rate of 1 % (`calibration.schemes`)


@dataclass(frozen=True)
class Rates:
    """What one worker does in a second, as measured; and what is assumed of the network.

    Attributes:
        images: decoded, and through the network, per second.
        points: that a selection lays out and brings up to date with its first centres, per second.
        pairs: of a point and a centre that a selection decides per second with `FEW` centres, a tenth of the points.
        scanned: bounds among which the largest are found per second.
        pool_pairs: of two candidates that the driver compares per second.
        searched: pairs of a patch and a bank vector per second, in the search of a calibration.
        selected: centres that one round of `POOL` candidates brings; more candidates bring no more.
        first_rounds: that bring few centres, before those.
        bytes_per_second: of the driver's network.
        round_trip: seconds of a message to a worker and back.
    """

    images: float
    points: float
    pairs: float
    scanned: float
    pool_pairs: float
    searched: float
    selected: float
    first_rounds: float
    bytes_per_second: float = 1.25e9
    round_trip: float = 0.005

    def shared(self, workers: float) -> Rates:
        """Of one of several workers that take turns at the cores of one."""
        return replace(
            self,
            **{name: getattr(self, name) / workers for name in ("images", "points", "pairs", "scanned", "searched")},
        )


@dataclass(frozen=True)
class Work:
    """A fit: `images` with `patches` features of a `dimension` each, `kept` of which are the bank."""

    images: int
    patches: int
    dimension: int
    kept: int

    @property
    def rows(self) -> int:
        """N."""
        return self.images * self.patches

    @property
    def learned(self) -> int:
        """Images whose features are stored."""
        return round(self.images * (1 - _KEPT_BACK)) if self.images >= _HELD_OUT_FROM else self.images

    @property
    def selections(self) -> int:
        """How often a bank is selected, and its images searched in it: once more for the corrected calibration."""
        return 1 if self.images >= _HELD_OUT_FROM or self.images < 20 else 2


@dataclass(frozen=True)
class Forecast:
    """What a fit takes with some workers. Seconds by stage; bytes from and to all workers together."""

    worker_bytes: int
    rounds: int
    up: float
    down: float
    bank_bytes: int
    features: float
    selection: float
    calibration: float

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return self.features + self.selection + self.calibration


def candidates_each(workers: int) -> int:
    """How many candidates a worker tells in a round (`sharded.select_from_shards`)."""
    return max(32, POOL // workers)


def crowded(centres: Any, rows: float) -> Any:
    """How many times as long a pair takes as with `FEW` centres, a tenth of the rows, on average of a selection."""
    return (centres / FEW) ** _CROWDING * (10 * centres / rows) ** _CRAMMING


def round_seconds(work: Work, workers: int, rates: Rates) -> tuple[float, float]:
    """Of one round, on average: what each worker computes, and what the driver and the network take."""
    pool, rounds = workers * candidates_each(workers), rounds_of(work, workers, rates)
    rows, centres = work.learned * work.patches / workers, work.kept / rounds
    worker = (
        _SCANS * rows / rates.scanned + rows * centres * crowded(work.kept, work.learned * work.patches) / rates.pairs
    )
    sent = pool * (4 * work.dimension + 16) + workers * centres * 4 * work.dimension
    driver = pool * centres / rates.pool_pairs + sent / rates.bytes_per_second
    return worker, driver + workers * _MESSAGE + rates.round_trip


def rounds_of(work: Work, workers: int, rates: Rates) -> int:
    """Rounds of one selection."""
    return math.ceil(rates.first_rounds + work.kept / max(1.0, rates.selected))


def setup_seconds(work: Work, workers: int, rates: Rates) -> float:
    """Of a worker, before the first round."""
    return work.learned * work.patches / workers / rates.points


def forecast(work: Work, workers: int, rates: Rates) -> Forecast:
    """What a fit takes if all workers are alike and none is lost."""
    rounds = rounds_of(work, workers, rates) * work.selections
    worker, driver = round_seconds(work, workers, rates)
    pool = workers * candidates_each(workers)
    scored = work.images - work.learned or work.images
    searched = work.selections * scored * work.patches * work.kept / rates.searched
    again = scored / rates.images if scored < work.images else 0.0  # held-out images are read for the calibration
    features = 4 * work.dimension * work.patches * work.learned / workers
    return Forecast(
        worker_bytes=int(features + PER_PATCH * work.patches * work.learned / workers),
        rounds=rounds,
        up=rounds * pool * (4.0 * work.dimension + 16),
        down=float(work.selections * work.kept * 4 * work.dimension * workers),
        bank_bytes=4 * work.dimension * work.kept,
        features=work.learned / rates.images / workers,
        selection=rounds * (worker + driver) + work.selections * setup_seconds(work, workers, rates),
        calibration=(searched + again) / workers,
    )


def advice(work: Work, workers: int, found: Forecast, memory: int) -> str:
    """What to change where the memory of a worker does not hold its share; "" where it does."""
    if found.worker_bytes <= memory:
        return ""
    enough = math.ceil(workers * found.worker_bytes / memory)
    return (
        f"a worker's share takes {found.worker_bytes / 1e9:.2g} GB and its memory is {memory / 1e9:.2g} GB: features "
        f"go to its disk, and the selection reads them there; {enough} workers hold all in memory, and a smaller "
        "--image-size needs less"
    )
