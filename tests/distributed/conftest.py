"""One Ray cluster of two nodes on this machine for all tests that need one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

_STORE = 80 * 2**20  # bytes of the object store of each node; Ray takes no less than 75 MiB


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """The `ray.cluster_utils.Cluster`; nothing of it talks beyond this machine."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DISABLE_MEMORY_MONITOR="1", RAY_enable_metrics_collection="0")
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "object_store_memory": _STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, object_store_memory=_STORE)
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
