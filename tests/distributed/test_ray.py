"""A fit on a Ray cluster of several nodes: the model of one machine, whatever is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from patchbank.distributed import ClusterError, connect
from patchbank.distributed.cluster import ClusterFit
from patchbank.distributed.crew import Crew
from patchbank.distributed.inspection import inspected
from patchbank.distributed.ray_workers import RayWorkers, gpus_each
from patchbank.distributed.shard import Call
from patchbank.sample import Sample
from tests.conftest import bad_image
from tests.distributed.test_fit import alone, images_for, make, same


class Killed(RayWorkers):
    """Workers that are killed with -9 while they are at a call: `at`, its method and the worker. `removes`: the method
    during which a node goes, with its workers."""

    at: dict[str, int]
    removes: str
    cluster: Any
    node: Any

    def submit(self, worker: int, calls: Sequence[Call]) -> Any:
        method = calls[-1].method
        if self.at.get(method) != worker:
            handle = super().submit(worker, calls)
        else:
            _, pid = self._place(worker)
            handle = super().submit(worker, calls)
            del self.at[method]
            os.kill(pid, signal.SIGKILL)
        if method == self.removes:
            self.removes = ""
            self.cluster.remove_node(self.node, allow_graceful=False)
        return handle


@pytest.mark.slow
def test_workers_are_killed_and_a_node_goes(ray_cluster: Any) -> None:
    given = images_for("patchcore")
    node = ray_cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    workers = Killed(3, threads=1)
    workers.at, workers.removes = {"collect": 0, "candidates": 1, "visit": 0}, "scale"
    workers.cluster, workers.node = ray_cluster, node
    crew = Crew(workers)
    try:
        with pytest.warns(match="was lost"):
            same(alone("patchcore"), make("patchcore").fit(given, cluster=ClusterFit(crew, workers.neighbours())))
    finally:
        workers.stop()
    assert crew.losses >= 3
    assert not workers.at
    # not tests of their own, which might start another cluster
    workers_that_do_not_begin()
    predictions_in_order(ray_cluster)


class Unlucky(RayWorkers):
    """Workers whose first processes end before they have begun, as on a node that has just gone."""

    ended = 0
    enough = 0

    def _start(self, cpus: int) -> Any:
        actor = super()._start(cpus)
        if self.ended < self.enough:
            self.ended += 1
            self._ray.kill(actor)
        return actor


def workers_that_do_not_begin() -> None:
    class OnceEach(Unlucky):
        enough = 2

    class Always(Unlucky):
        enough = 100

    begun = OnceEach(2, threads=1)
    assert len(begun.places) == 2
    begun.stop()
    with pytest.raises(ClusterError, match="the worker did not start"):
        Always(1, threads=1)


def predictions_in_order(ray_cluster: Any) -> None:
    model = alone("patchcore")
    sources = [Sample.of(str(i), bad_image(i)) for i in range(9)]
    sources[4] = Sample.of("4", b"no image")
    failed = list[str]()
    with connect(ray_cluster.address, 2) as cluster:
        found = list(inspected(cluster, model, sources, lambda name, error: failed.append(name)))
    assert [source.name for source, _ in found] == [source.name for source in sources if source.name != "4"]
    assert failed == ["4"]
    for source, prediction in found:
        here = model.predict(source.data)
        assert prediction.score == here.score
        np.testing.assert_array_equal(prediction.map, here.map)


@pytest.mark.parametrize(
    ("gpus", "workers", "each"), [(0, 4, 0), (1, 4, 1 / 4), (2, 4, 1 / 2), (3, 4, 1 / 2), (8, 4, 1)]
)
def test_workers_share_the_gpus(gpus: int, workers: int, each: float) -> None:
    assert gpus_each(gpus, workers) == each
    assert workers * each <= gpus or not each  # all can start


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(ClusterError, match=r"--ray 127\.0\.0\.1:1: no Ray cluster can be reached"),
        connect("127.0.0.1:1"),
    ):
        pass
