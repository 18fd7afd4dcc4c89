"""Features of images on disk, by content, so that the cells of a grid share them: an entry's name is the SHA-256 of the
image's bytes and of everything that decides its features, its modification time the last use of it."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchbank._system.files import reason, replacing, spelled
from patchbank.data import Sample
from patchbank.data.opening import open_file
from patchbank.errors import ImageError, notify
from patchbank.sample import RGB_CHANNEL

if TYPE_CHECKING:
    from patchbank.detector import Detector

_LOOK_AGAIN = 0.01  # of the limit: after so much was written, what other processes wrote is counted too
_SLACK = 0.95  # of the limit is left when entries are removed, not to remove one at every write
_ABANDONED = 3600  # seconds after which a half-written entry is nobody's


class FeatureCache:
    """`limit` bytes of entries below `folder`; the longest unused go first. Several processes may use one folder.

    `hits` and `misses` count images, where the cache was asked.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.hits = self.misses = 0
        self._lock = threading.Lock()
        self.asleep = self._broken = False
        self._known, self._added = -1, 0  # bytes at the last look; bytes added since

    @property
    def active(self) -> bool:
        """Whether it is asked at all."""
        return not (self.asleep or self._broken)

    def digest(self, source: Sample, channels: Sequence[str] = (RGB_CHANNEL,)) -> str | None:
        """The SHA-256 of the files of a sample's channels and of the angle it is turned by; None for what is no
        file."""
        paths = list(dict.fromkeys(source.seen_in(channel).path for channel in channels))
        if not self.active or None in paths:
            return None
        try:
            whole = hashlib.sha256()
            for path in filter(None, paths):
                with open_file(path) as file:
                    whole.update(file.read())
            whole.update(repr(source.angle).encode())
            return whole.hexdigest()
        except (ImageError, OSError):  # told by the one that reads the image
            return None

    def get(self, digest: str | None, how: str) -> tuple[Tensor, str] | None:
        """Features of an image of that digest, made in the way `how`, and the digest of its pixels; None where there
        are none, or damaged ones."""
        if digest is None or not self.active:
            return None
        path = self._path(digest, how)
        found = _read(path)
        with self._lock:
            self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        if found is not None:
            with contextlib.suppress(OSError):  # removed by another process meanwhile
                path.touch(exist_ok=True)
        return found

    def put(self, digest: str | None, how: str, features: Tensor, pixels: str = "") -> None:
        """Keep the features of an image, and the digest of its pixels. Where the disk is full or cannot be written, the
        cache is given up."""
        size = features.numel() * features.element_size()
        if digest is None or not self.active or size > self.limit:
            return
        features = features.detach().cpu().contiguous()
        try:
            with replacing(self._path(digest, how)) as temporary, spelled(temporary) as name:
                save_file({"features": features}, name, {"crc32": str(_crc32(features)), "pixels": pixels})
        except (OSError, SafetensorError) as error:
            self._broken = True
            notify(f"{self.folder}: no features can be kept there ({reason(error)}): they are computed")
            return
        with self._lock:
            self._added += size
            if self._known < 0 or self._added > _LOOK_AGAIN * self.limit or self._known + self._added > self.limit:
                self._make_room()

    def _path(self, digest: str, how: str) -> Path:
        name = hashlib.sha256(f"{digest} {how}".encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _make_room(self) -> None:
        """Count what is there, and remove the longest unused entries where that is too much."""
        entries = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # removed by another process meanwhile
                state = path.stat()
                if path.suffix == ".safetensors":
                    entries.append((state.st_mtime_ns, path, state.st_size))
                elif time.time() - state.st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)
        total = sum(size for _, _, size in entries)
        target = self.limit if total <= self.limit else _SLACK * self.limit
        for _, path, size in sorted(entries):
            if total <= target:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._known, self._added = total, 0


@contextlib.contextmanager
def no_cache(detector: Detector) -> Iterator[bool]:
    """Within the block features are computed, to take the time; whether they were not before."""
    caches = [part.feature_cache for part in detector.parts() if part.feature_cache]
    for cache in caches:
        cache.asleep = True
    try:
        yield bool(caches)
    finally:
        for cache in caches:
            cache.asleep = False


def _read(path: Path) -> tuple[Tensor, str] | None:
    try:
        with spelled(path) as name, safe_open(name, framework="pt") as file:
            features: Tensor = file.get_tensor("features").clone()  # out of the file, which may be removed
            facts = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    intact = "pixels" in facts and facts.get("crc32") == str(_crc32(features))
    return (features, facts["pixels"]) if intact else None


def _crc32(features: Tensor) -> int:
    return zlib.crc32(features.flatten().view(torch.uint8).numpy().data)
