"""What `--ray` and `--workers` do: the workers that a command shares its work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from patchbank.cli.options import Cluster, Machine
from patchbank.errors import OnError

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.distributed.cluster import ClusterFit
    from patchbank.prediction import Prediction
    from patchbank.sample import Sample

    Inspect: TypeAlias = Callable[[Sequence[Sample], OnError], Iterator[tuple[Sample, Prediction]]]


@contextmanager
def cluster_of(cluster: Cluster, machine: Machine) -> Iterator[ClusterFit | None]:
    """The workers of `--ray`; None without it. They have the GPUs of the cluster, unless with `--device cpu`."""
    cluster.check()
    if cluster.ray is None:
        yield None
        return
    from patchbank.distributed import connect

    gpus = 0.0 if machine.device == "cpu" else None
    with connect(cluster.ray, cluster.workers, threads=machine.threads, gpus=gpus) as workers:
        yield workers


@contextmanager
def inspecting(detector: Detector, cluster: Cluster, machine: Machine) -> Iterator[Inspect]:
    """What inspects samples: the detector, or the workers of `--ray`."""
    with cluster_of(cluster, machine) as workers:
        if workers is None:
            yield lambda sources, on_error: (
                (item.source, prediction) for item, prediction in detector.inspected(sources, on_error)
            )
        else:
            from patchbank.distributed.inspection import inspected

            yield partial(inspected, workers, detector)
