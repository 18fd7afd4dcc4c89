"""What a fit will need, before it starts: where its features go, or a polite refusal."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass

import torch

from patchbank._system.ram import available_bytes, rss_bytes
from patchbank.errors import MemoryBudgetError

SHARE = 0.8  # of the memory that is free now, where no budget is given
_BUFFERS = 150_000_000  # the network's own, decoded images, blocks of intermediate results
PER_PATCH = 165  # bytes of the greedy selection for each patch: 27 coordinates, distances, counters
_PER_DRAWN = 16  # bytes of the order in which a training sees each patch
_PAGES = 600_000_000  # of a file, mapped at one time
_WAYS_OUT = "use fewer images or a smaller image size (--image-size), or give it more memory (--memory-budget)"
_OF_BANKS = ", or select in chunks (--streaming)"


_WAYS_OUT_OF_TRAINING = (
    "use fewer images, a smaller image size (--image-size) or smaller batches (--set batch=N), or give it more memory "
    "(--memory-budget)"
)


@dataclass(frozen=True)
class Plan:
    """`where` the features of a fit go: "memory", "disk" or "stream", then in chunks of `chunk` patches; `text` says it
    in a sentence."""

    where: str
    chunk: int
    text: str


def plan_fit(
    images: int,
    patches: int,
    dimension: int,
    bank: int,
    device: torch.device,
    budget: int | None,
    *,
    stream: bool = False,
    projected: int = 0,
    learned: int = 0,
    network: int = 0,
) -> Plan:
    """Plan a fit of that many patches, `bank` of which are kept (0: nothing is selected), within `budget` bytes of this
    process's memory (None: most of what is free); `projected`: dimension that the selection projects to, 0 for none;
    `learned`: bytes that the making of each kept vector takes, where they are not patches; `network`: bytes of one that
    is trained, and of a step of its training. Raises `MemoryBudgetError` for one that cannot fit."""
    features, per_patch = 4 * patches * dimension, PER_PATCH + 4 * projected if bank else 0
    ways_out = _WAYS_OUT + _OF_BANKS if bank else _WAYS_OUT
    if network:
        per_patch, ways_out = _PER_DRAWN, _WAYS_OUT_OF_TRAINING
    room, whose = _room(device, budget)
    # the bank, the copy in the order of the search, and its coordinates
    fixed = _BUFFERS + network + bank * (8 * dimension + 700 + learned)
    work = f"{images} images, {patches} patches × {dimension}"
    if stream:
        chunk = min(patches, (room - fixed) // (4 * dimension + per_patch))
        if chunk < min(patches, 4 * bank):
            needed = fixed + 4 * bank * (4 * dimension + per_patch)
            raise MemoryBudgetError(_refusal(work, needed, room, whose, "keep fewer patches (--bank-size)"))
        return Plan("stream", chunk, f"{work}: selected in chunks of {chunk} patches")
    selection = fixed + patches * per_patch
    if features + selection <= room:
        return Plan("memory", 0, f"{work}: {_size(features + selection)} in memory")
    selection += _PAGES
    if device.type == "cpu" and selection <= room and features * 1.05 < shutil.disk_usage(tempfile.gettempdir()).free:
        where = f"a temporary file in {tempfile.gettempdir()} (TMPDIR)"
        return Plan("disk", 0, f"{work}: {_size(features)} in {where}, {_size(selection)} in memory")
    raise MemoryBudgetError(_refusal(work, features + selection, room, whose, ways_out))


def plan_statistics(work: str, needed: int, device: torch.device, budget: int | None, ways_out: str) -> Plan:
    """Plan a fit that keeps `needed` bytes of statistics instead of features. Raises `MemoryBudgetError` that ends with
    the `ways_out`."""
    room, whose = _room(device, budget)
    needed += _BUFFERS
    if needed <= room:
        return Plan("memory", 0, f"{work}: statistics of {_size(needed)} in memory")
    raise MemoryBudgetError(_refusal(work, needed, room, whose, ways_out))


def _room(device: torch.device, budget: int | None) -> tuple[int, str]:
    """Bytes a fit may add to what there is, and in words whose they are."""
    if budget is not None:
        used = rss_bytes()
        room, whose = max(budget - used, 0), f"the memory budget leaves beside the {_size(used)} in use"
    else:
        room = int(SHARE * available_bytes())
        whose = f"{SHARE:.0%} of the memory that is free"
    if device.type == "cuda" and (of_gpu := int(SHARE * torch.cuda.mem_get_info(device)[0])) < room:
        return of_gpu, f"{SHARE:.0%} of the GPU's free memory"
    return room, whose


def _refusal(work: str, needed: int, room: int, whose: str, ways_out: str) -> str:
    return f"{work}: needs about {_size(needed)} of memory, more than {whose} ({_size(room)}): {ways_out}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 5e8 else f"{count / 1e6:.0f} MB"
