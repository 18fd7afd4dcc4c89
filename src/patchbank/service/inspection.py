"""The one thread that uses the models, and the one that makes their answers durable.

Requests put images into a queue. The first thread takes what waits there, as far as it is for one model, as a batch:
on a GPU the network sees it at once, on a CPU the next image is decoded while the network is at the one before. Each
result goes to the second thread as soon as it is there, which records all that have come in one transaction and answers
them, while the first thread works on.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
from fastapi import HTTPException

from patchbank.errors import ImageError
from patchbank.prediction import Prediction, finite
from patchbank.service.kept import pack_map
from patchbank.service.metrics import Metrics
from patchbank.service.models import Model, Models
from patchbank.service.records import Record
from patchbank.service.slots import Slots
from patchbank.service.store import HistoryError, HistoryStore
from patchbank.service.uploads import Upload

_log = logging.getLogger("patchbank.service")
T = TypeVar("T")
_MOST_MAPS = 8  # of results that wait to be recorded: a map may have hundreds of megabytes
_GPU_WAIT = 0.005  # seconds that a batch is waited for where the network sees it at once


@dataclass(eq=False)
class _Item:
    """An accepted image."""

    model: str
    upload: Upload
    threshold: float | None
    accepted: float = field(default_factory=time.perf_counter)
    future: Future[Record] = field(default_factory=Future)


@dataclass(eq=False)
class _Job:
    """Other work that needs the network, which no two threads may use at once."""

    work: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Inspector:
    """The queue and its two threads."""

    def __init__(
        self,
        models: Models,
        history: HistoryStore,
        metrics: Metrics,
        *,
        slots: int,
        batch: int,
        batch_wait: float | None,
    ):
        self.models, self.history, self.metrics = models, history, metrics
        self.slots = Slots(slots, metrics)
        self.batch, self.batch_wait = batch, batch_wait
        self.seconds_each = 0.1  # a running mean, of one image
        self._waiting: queue.SimpleQueue[_Item | _Job | None] = queue.SimpleQueue()
        self._done: queue.Queue[tuple[_Item, Model, Prediction] | None] = queue.Queue(_MOST_MAPS)
        self._threads: list[threading.Thread] = []

    # ---- from any thread ---------------------------------------------------------------------------------------------

    def submit(self, model: str, upload: Upload, threshold: float | None) -> Future[Record]:
        """The durable record to come, for an image that has its slot, which it gives back. It holds `ImageError` where
        the image cannot be inspected."""
        item = _Item(model, upload, threshold)
        self._waiting.put(item)
        return item.future

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Call `work` in the thread that uses the models, between two batches."""
        job = _Job(work)
        self._waiting.put(job)
        return job.future

    async def wait(self, work: Callable[[], T], limit: float) -> T:
        """As `run`, for the event loop. Raises `HTTPException` where it takes longer than `limit` seconds."""
        try:
            with anyio.fail_after(limit):
                return await asyncio.wrap_future(self.run(work))
        except TimeoutError:
            raise self.not_now(503, too_long(limit)) from None

    def away(self) -> HTTPException | None:
        """For a request that comes while the history is known to be away: its images need not be inspected."""
        if (why := self.history.away()) is None:
            return None
        return self.not_now(503, f"the history cannot be written, so nothing is answered ({why})")

    def busy(self) -> HTTPException:
        """For a request that finds no slot."""
        return self.not_now(429, f"{self.slots.count} images are waiting already; try again later")

    def not_now(self, status: int, sentence: str) -> HTTPException:
        """With the seconds until there should be room again."""
        seconds = min(60, 1 + int(self.slots.taken * self.seconds_each / 2))
        return HTTPException(status, sentence, {"Retry-After": str(seconds)})

    def problem(self) -> str | None:
        """Why no inspection can be answered; None where all is well."""
        if not self._threads or not all(thread.is_alive() for thread in self._threads):
            return "the service is starting or stopping"
        if problem := self.history.problem():
            return f"the history cannot be written ({problem})"
        return None

    @property
    def is_running(self) -> bool:
        return bool(self._threads)

    def start(self) -> None:
        self._threads = [
            threading.Thread(target=work, name=f"patchbank-{work.__name__.strip('_')}", daemon=True)
            for work in (self._inspect_all, self._answer_all)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """After everything that was submitted has been answered."""
        threads, self._threads = self._threads, []
        self._waiting.put(None)
        threads[0].join()
        self._done.put(None)
        threads[1].join()

    # ---- the first thread --------------------------------------------------------------------------------------------

    def _inspect_all(self) -> None:
        held: _Item | _Job | None = None
        while (first := held or self._waiting.get()) is not None:
            held = None
            if isinstance(first, _Job):
                _run(first)
                continue
            batch, held, ends = self._take(first)
            self._inspect(first.model, batch)
            if ends:
                return

    def _take(self, first: _Item) -> tuple[list[_Item], _Item | _Job | None, bool]:
        """The batch that begins with an item, what comes after it, and whether that is the end."""
        batch, until = [first], time.perf_counter() + self._wait_for(first.model)
        while len(batch) < self.batch:
            try:
                following = self._waiting.get(timeout=max(0.0, until - time.perf_counter()))
            except queue.Empty:
                break
            if not isinstance(following, _Item) or following.model != first.model:
                return batch, following, following is None
            batch.append(following)
        return batch, None, False

    def _wait_for(self, name: str) -> float:
        if self.batch_wait is not None:
            return self.batch_wait
        model = self.models.get(name)
        return _GPU_WAIT if model is not None and model.detector.torch_device.type == "cuda" else 0.0

    def _inspect(self, name: str, batch: list[_Item]) -> None:
        """Predict a batch; each image's answer goes on its way alone."""
        ready = [item for item in batch if item.future.set_running_or_notify_cancel()]
        # the client's names, told apart: they stand in what the service writes about an image
        live = {f"{item.upload.name} [{i}]" if i else item.upload.name: item for i, item in enumerate(ready)}
        self.slots.give(len(batch) - len(live))
        self.metrics.batches.labels("inspection").observe(len(batch))
        started = last = time.perf_counter()
        for item in live.values():
            self.metrics.stages.labels("queue").observe(started - item.accepted)
        model = self.models.get(name)
        try:
            assert model is not None
            for prediction in self._predictions(model, live):
                now = time.perf_counter()
                self.seconds_each += 0.1 * (now - last - self.seconds_each)
                last = now
                item = live.pop(prediction.path)
                self._done.put((item, model, _as_asked(prediction, item, started)))
        except Exception as error:  # whatever it is, the next batch must go on
            _log.exception("%s: a batch of %d images failed", name, len(batch))
            for item in live.values():
                self._fail(item, error)

    def _predictions(self, model: Model, live: dict[str, _Item]) -> Iterator[Prediction]:
        def failed(key: str, error: Exception) -> None:
            self._fail(live.pop(key), ImageError(str(error).removeprefix(f"{key}: ")))

        sources = [replace(item.upload.source, name=key) for key, item in live.items()]
        return model.detector.predictions(sources, failed)

    def _fail(self, item: _Item, error: Exception) -> None:
        self.metrics.inspections.labels(item.model, "failed").inc()
        self.slots.give(1)
        item.future.set_exception(error)

    # ---- the second thread -------------------------------------------------------------------------------------------

    def _answer_all(self) -> None:
        ends = False
        while not ends and (first := self._done.get()) is not None:
            group = [first]
            while not self._done.empty():
                following = self._done.get()
                if following is None:
                    ends = True
                    break
                group.append(following)
            self._answer(group)

    def _answer(self, group: list[tuple[_Item, Model, Prediction]]) -> None:
        """Make a group durable, then answer it."""
        started = time.perf_counter()
        self.metrics.batches.labels("record").observe(len(group))
        try:
            records = [_record(*one) for one in group]
            self.history.record(records)
        except Exception as error:
            is_known = isinstance(error, HistoryError)  # its sentence says it all
            _log.error("%d not recorded, and not answered: %s", len(group), error, exc_info=not is_known)
            for item, _, _ in group:
                self._fail(item, error)
            return
        for (item, _, _), record in zip(group, records, strict=True):
            self._count(record, time.perf_counter() - started)
            self.slots.give(1)
            item.future.set_result(record)
        try:
            self.history.trim()
        except Exception:
            _log.exception("old images cannot be removed")

    def _count(self, record: Record, recording: float) -> None:
        self.metrics.inspections.labels(record.model, "rejected" if record.is_anomalous else "accepted").inc()
        self.metrics.stages.labels("record").observe(recording)
        for stage in ("decode", "network", "score"):
            if (value := record.timings.get(f"{stage}_ms")) is not None:
                self.metrics.stages.labels(stage).observe(value / 1000)


def too_long(limit: float) -> str:
    return f"this took longer than {limit:g} seconds; try again later"


def _as_asked(prediction: Prediction, item: _Item, started: float) -> Prediction:
    """Under the client's name and threshold, with the time it waited."""
    if item.threshold is not None:
        prediction = prediction.at_threshold(item.threshold)
    timings = {"queue_ms": 1e3 * (started - item.accepted), **prediction.timings}
    return replace(prediction, path=item.upload.name, timings=timings)


def _record(item: _Item, model: Model, prediction: Prediction) -> Record:
    plain = finite(prediction.to_dict())
    return Record(
        at=time.time(),
        model=model.name,
        version=model.version,
        name=prediction.path,
        score=prediction.score,
        p_value=prediction.p_value,
        threshold=prediction.threshold,
        map_threshold=prediction.map_threshold,
        is_anomalous=prediction.is_anomalous,
        size=(prediction.map.shape[0], prediction.map.shape[1]),
        regions=plain["regions"],
        timings={name: round(value, 2) for name, value in prediction.timings.items()},
        image=item.upload.image,
        geometry=item.upload.geometry,
        map_png=pack_map(prediction.map, prediction.map_threshold),
        channels=plain.get("channels", {}),
    )


def _run(job: _Job) -> None:
    if job.future.set_running_or_notify_cancel():
        try:
            job.future.set_result(job.work())
        except BaseException as error:
            job.future.set_exception(error)
