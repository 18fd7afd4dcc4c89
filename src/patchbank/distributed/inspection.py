"""Predictions by several workers, in the order of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from patchbank.data import Sample
from patchbank.distributed.cluster import ClusterFit
from patchbank.distributed.crew import ClusterError
from patchbank.distributed.shard import Call
from patchbank.errors import ImageError, OnError

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.prediction import Prediction

_AT_A_TIME = 8  # images of one shard: what is lost with a worker
_AHEAD = 4  # shards of each worker whose predictions wait for those before them


def inspected(
    cluster: ClusterFit, detector: Detector, sources: Sequence[Sample], on_error: OnError
) -> Iterator[tuple[Sample, Prediction]]:
    """Each source that can be read with its prediction. `on_error` hears of the others; also of a shard that takes its
    worker with it each time, image by image."""
    crew = cluster.crew
    crew.forget_all()
    crew.tell("load", [(crew.share(detector),)] * len(crew))
    chunks = [sources[at : at + _AT_A_TIME] for at in range(0, len(sources), _AT_A_TIME)]
    together = _AHEAD * len(crew)
    for start in range(0, len(chunks), together):
        yield from _in_order(cluster, chunks[start : start + together], on_error)


def _in_order(
    cluster: ClusterFit, chunks: Sequence[Sequence[Sample]], on_error: OnError
) -> Iterator[tuple[Sample, Prediction]]:
    size, found, following = len(cluster.crew), dict[int, Any](), 0
    calls = [[Call("inspect", (list(chunk),))] for chunk in chunks]
    queues = [calls[worker::size] for worker in range(size)]
    for worker, number, result in cluster.crew.spread(queues, passes_over=True):
        found[number * size + worker] = result
        while following in found:
            chunk, result = chunks[following], found.pop(following)
            following += 1
            if isinstance(result, ClusterError):
                for source in chunk:
                    on_error(source.name, ImageError(f"{source.name}: not inspected: {result}"))
                continue
            predictions, failures = result
            for name, error in failures:
                on_error(name, error)
            for place, prediction in predictions:
                yield chunk[place], prediction
