"""A fit on a Ray cluster of several nodes: the model of one machine, whatever is killed."""

from __future__ import annotations

from typing import Any

import pytest

from patchbank.distributed import connect
from tests.distributed.test_fit import images, make, same


@pytest.mark.slow
def test_the_model_of_one_machine(ray_cluster: Any) -> None:
    for case in ("patchcore", "padim"):
        given = images(4) if case == "patchcore" else images(4)[1:3]
        alone = make(case).fit(given)
        with connect(ray_cluster.address, 2) as cluster:
            same(alone, make(case).fit(given, cluster=cluster))
