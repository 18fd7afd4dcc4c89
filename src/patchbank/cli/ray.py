"""What `--ray` and `--workers` do: the workers that a command shares its work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from patchbank.errors import OnError, OptionError

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.distributed.cluster import ClusterFit
    from patchbank.prediction import Prediction
    from patchbank.sample import Sample

    Inspect: TypeAlias = Callable[[Sequence[Sample], OnError], Iterator[tuple[Sample, Prediction]]]

_CLUSTER = "Cluster"
Ray: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="auto|local|ADDRESS",
        help="Work on a Ray cluster: the one of this machine, workers on this machine alone, or the one at an address.",
        rich_help_panel=_CLUSTER,
    ),
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on the cluster [default: one for each of its CPUs].", rich_help_panel=_CLUSTER),
]


def check_workers(ray: str | None, workers: int | None) -> None:
    """Raise `OptionError` for workers of no cluster."""
    if workers is not None and ray is None:
        raise OptionError("--workers is for a Ray cluster: give --ray auto, or leave it out")


@contextmanager
def cluster_of(ray: str | None, workers: int | None, threads: int | None) -> Iterator[ClusterFit | None]:
    """The workers of `--ray`; None without it."""
    check_workers(ray, workers)
    if ray is None:
        yield None
        return
    from patchbank.distributed import connect

    with connect(ray, workers, threads=threads) as cluster:
        yield cluster


@contextmanager
def inspecting(detector: Detector, ray: str | None, workers: int | None, threads: int | None) -> Iterator[Inspect]:
    """What inspects samples: the detector, or the workers of `--ray`."""
    with cluster_of(ray, workers, threads) as cluster:
        if cluster is None:
            yield lambda sources, on_error: (
                (item.source, prediction) for item, prediction in detector.inspected(sources, on_error)
            )
        else:
            from patchbank.distributed.inspection import inspected

            yield partial(inspected, cluster, detector)
