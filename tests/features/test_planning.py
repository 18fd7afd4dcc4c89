"""The forecast: where the features go, and what is refused with the ways out."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch

from patchbank.errors import MemoryBudgetError
from patchbank.features import planning
from patchbank.features.planning import Plan, plan_fit
from patchbank.memory.fused_scorer import FusedScorer
from patchbank.methods import METHODS
from patchbank.scorer import Levels

CPU = torch.device("cpu")
GB = 10**9


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 GB free, half a GB in use, a large disk."""
    monkeypatch.setattr(planning, "available_bytes", lambda: 10 * GB)
    monkeypatch.setattr(planning, "rss_bytes", lambda: GB // 2)


def plan(patches: int, budget: int | None, stream: bool = False) -> Plan:
    return plan_fit(1000, patches, 152, 10_000, CPU, budget, stream=stream)


def test_what_fits_stays_in_memory() -> None:
    found = plan(1_000_000, 4 * GB)
    assert found.where == "memory"
    assert "1000 images, 1000000 patches × 152" in found.text


def test_past_the_budget_the_features_go_to_a_file() -> None:
    found = plan(10_000_000, 4 * GB)
    assert found.where == "disk"
    assert "6.1 GB in a temporary file" in found.text


def test_what_fits_neither_is_refused_with_the_ways_out() -> None:
    with pytest.raises(MemoryBudgetError, match=r"--image-size.*--memory-budget.*--streaming") as refusal:
        plan(100_000_000, 4 * GB)
    assert "78 GB" in str(refusal.value)
    assert "the memory budget leaves beside the 0.5 GB in use (3.5 GB)" in str(refusal.value)


def test_a_full_disk_is_no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: type("Usage", (), {"free": GB}))
    with pytest.raises(MemoryBudgetError):
        plan(10_000_000, 4 * GB)


def test_chunks_use_the_budget_and_no_more() -> None:
    found = plan(100_000_000, 4 * GB, stream=True)
    assert found.where == "stream"
    assert 0.7 * 3.5 * GB < found.chunk * (4 * 152 + 165) < 3.5 * GB
    assert plan(1000, 4 * GB, stream=True).chunk == 1000


def test_too_little_for_a_chunk_is_refused() -> None:
    with pytest.raises(MemoryBudgetError, match="--bank-size"):
        plan(100_000_000, GB // 2 + 160_000_000, stream=True)


def test_without_a_budget_most_of_the_free_memory_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan(10_000_000, None).where == "memory"
    assert plan(12_000_000, None).where == "disk"
    with pytest.raises(MemoryBudgetError, match="80% of the memory that is free"):
        plan(100_000_000, None)


def test_a_budget_is_no_more_than_the_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.torch.cuda, "mem_get_info", lambda _: (GB, 2 * GB))
    with pytest.raises(MemoryBudgetError, match=r"80% of the GPU's free memory \(0\.8 GB\)"):
        plan_fit(1000, 10**6, 152, 10_000, torch.device("cuda"), 4 * GB)


def test_what_learning_each_vector_takes_is_planned() -> None:
    def needed(learned: int) -> Plan:
        return plan_fit(10, 10_000, 152, 10_000, CPU, GB, learned=learned)

    assert needed(0).where == "memory"
    with pytest.raises(MemoryBudgetError):
        needed(40_000)  # 0.4 GB of 0.5


def test_what_keeps_no_patches_selects_none() -> None:
    """The pixels of 210 pictures of 256×320: 206 MB, and nothing of a selection."""
    patches = 210 * 256 * 320
    assert plan_fit(210, patches, 3, 0, CPU, GB).where == "memory"
    with pytest.raises(MemoryBudgetError, match=r"\(--memory-budget\)$"):
        plan_fit(210, 100 * patches, 3, 0, CPU, GB)


def test_networks_of_several_channels_are_planned() -> None:
    """Their weights stay, and they learn one after the other."""
    model, single = METHODS["simplenet"](hidden=64), Levels((512,), (8,), 512)
    one = model.make_scorer(single)
    stay, beside = one.training_bytes(10, 10_000)
    assert sum(one.training_bytes(10, 10_000)) == 4 * stay + one.step_bytes(10, 1_000)
    fused = FusedScorer([one, model.make_scorer(single), model.make_scorer(single)], "abc", "max", CPU)
    features = 3 * 4 * 10_000 * 512
    needed = 150_000_000 + features + 3 * stay + beside + 16 * 10_000

    def room(count: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planning, "_room", lambda device, budget: (count, "what there is"))
            patch.setattr(planning.shutil, "disk_usage", lambda path: Mock(free=0))
            fused.plan(10, 10_000, CPU, None)

    room(needed)
    with pytest.raises(MemoryBudgetError, match="smaller batches"):
        room(needed - 1)


def test_both_channels_of_a_mapping_are_planned() -> None:
    model = METHODS["cfm"]()
    scorer = model.fuse([Levels((100,), (8,), 100), Levels((33,), (8,), 33)], ("rgb", "curvature"))
    assert "10000 patches × 133" in scorer.plan(10, 10_000, CPU, None).text
