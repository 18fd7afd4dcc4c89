"""The forecast of a fit on a cluster, and the simulation that rests on it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from benchmarks.cluster_simulation import Cluster, Simulation
from typer.testing import CliRunner

from patchbank.cli import app
from patchbank.distributed.rates import Rates, Work, advice, candidates_each, forecast, rounds_of

RATES = Rates(20.0, 3e5, 2e9, 1e8, 1e8, 1e9, 800.0, 10.0)
WORK = Work(100_000, 784, 152, 10_000)


def test_what_a_worker_holds_and_what_travels() -> None:
    found = forecast(WORK, 8, RATES)
    assert found.worker_bytes == 80_000 * 784 * (4 * 152 + 165) // 8  # a fifth is held out
    assert found.rounds == rounds_of(WORK, 8, RATES) == math.ceil(10 + 10_000 / 800)
    assert found.down == 10_000 * 4 * 152 * 8
    assert found.up == found.rounds * 8 * candidates_each(8) * (4 * 152 + 16)
    assert found.features == 80_000 / 20 / 8


@pytest.mark.parametrize(
    ("rows", "kept", "rounds", "seconds"),
    [(156_800, 15_680, 20, 2.75), (600_000, 60_000, 38, 32.4), (2_000_000, 40_000, 35, 51.4)],
)
def test_a_selection_takes_what_was_measured(rows: int, kept: int, rounds: int, seconds: float) -> None:
    here = Rates(
        1000.0, 3.1e5, 2.15e9, 1e9, 1.6e8, 1.4e9, 2100.0, 10.0
    )  # of the machine of the measurements, 128 dimensions
    assert rounds_of(Work(1, rows, 128, kept), 1, here) == pytest.approx(rounds, rel=0.2)
    assert forecast(Work(1, rows, 128, kept), 1, here).selection == pytest.approx(seconds, rel=0.3)
    assert forecast(Work(1, rows, 128, kept), 1, here.shared(2)).selection > 1.2 * seconds


def test_more_workers_take_less_time_until_the_driver_is_the_limit() -> None:
    seconds = [forecast(WORK, workers, RATES).seconds for workers in (1, 8, 64)]
    assert seconds == sorted(seconds, reverse=True)
    slow = replace(RATES, bytes_per_second=1e7)
    assert forecast(WORK, 1024, slow).selection > forecast(WORK, 64, slow).selection


def test_a_small_memory_is_said() -> None:
    found = forecast(WORK, 8, RATES)
    assert advice(WORK, 8, found, 2 * found.worker_bytes) == ""
    assert "16 workers hold all in memory" in advice(WORK, 8, found, found.worker_bytes // 2)


def test_without_chance_the_simulation_is_the_forecast() -> None:
    still = Cluster(slower=0.0, noise=0.0, losses=1e-12)
    found = Simulation(WORK, 64, RATES, still, 0).run()
    assert found["seconds"] == pytest.approx(forecast(WORK, 64, RATES).seconds)
    assert found["lost"] == 0


def test_stragglers_and_losses_cost_time_and_depend_on_the_seed_alone() -> None:
    seconds = [Simulation(WORK, 64, RATES, Cluster(losses=0.0001), seed).run()["seconds"] for seed in (1, 1, 2)]
    assert seconds[0] == seconds[1] != seconds[2]
    assert seconds[0] > forecast(WORK, 64, RATES).seconds
    often = Simulation(WORK, 64, RATES, Cluster(losses=10.0), 1).run()
    assert often["lost"] > 0
    assert often["seconds"] > seconds[0]


@pytest.mark.slow
def test_the_command() -> None:
    line = ["plan", "--images", "100000", "--workers", "8", "--image-size", "64", "--worker-memory", "10MB"]
    result = CliRunner().invoke(app, [*line, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["rounds"] > 0
    assert "use more workers" not in found["advice"]
    assert "workers hold all in memory" in found["advice"]
