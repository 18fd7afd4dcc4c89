"""Methods that keep statistics of the nominal images and never all their features: one walk to learn, one to
calibrate."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from patchbank.data import Source
from patchbank.features.extractor import OnError, Progress
from patchbank.features.planning import Plan, plan_statistics
from patchbank.features.store import FeatureSet, ImageFeatures
from patchbank.methods.base import Detector


class StreamingDetector(Detector):
    """Sees each nominal image once while it learns; the calibration computes its features again. `ways_out`: what to do
    where its statistics do not fit into memory."""

    ways_out: ClassVar[str]

    @abstractmethod
    def _begin(self, images: int) -> None:
        """Before the first of so many images."""

    @abstractmethod
    def _observe(self, item: ImageFeatures) -> None:
        """Take in one nominal image."""

    @abstractmethod
    def _statistics_bytes(self, images: int, patches: int) -> int:
        """Memory that learning takes, for the forecast."""

    def _plan(self, images: int, patches: int) -> Plan:
        needed = self._statistics_bytes(images, patches)
        work = f"{images} images, {patches // images} patches × {self._open().dimension} each"
        return plan_statistics(work, needed, self.torch_device, self.memory_budget, self.ways_out)

    def _gather(
        self, sources: list[Source], patches: int, plan: Plan, on_error: OnError, progress: Progress | None
    ) -> FeatureSet:
        features, used = FeatureSet(None), list[Source]()
        self._begin(len(sources))
        for item in self._open().learn(sources, on_error, progress):
            self._observe(item)
            features.add(item)
            used.append(item.source)
        features.again = lambda: self._again(used, features, on_error)
        return features
