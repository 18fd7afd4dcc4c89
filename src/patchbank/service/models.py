"""The models of a service: loaded once per file, and again when the file is replaced."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchbank._system.files import file_digest, keep_copy, shown
from patchbank.errors import ImageError, OptionError, PatchbankError
from patchbank.loading import load
from patchbank.prediction import finite
from patchbank.sample import GEOMETRY_CHANNEL, RGB_CHANNEL, sources_of
from patchbank.service.config import Config
from patchbank.service.records import iso
from patchbank.service.registry import VersionedModel, model_of, models_below
from patchbank.shape import DepthFormat

if TYPE_CHECKING:
    from patchbank.detector import Detector

_log = logging.getLogger("patchbank.service")
_POLL = 0.5  # seconds between two looks at the files; one must be the same at both


@dataclass(frozen=True)
class Model:
    """A loaded model; `version` are the first digits of its file's SHA-256."""

    name: str
    file: Path
    detector: Detector
    version: str
    stamp: tuple[int, ...]
    loaded_at: float

    @property
    def channels(self) -> tuple[str, ...]:
        """What it looks at."""
        return tuple(dict.fromkeys(name for part in self.detector.parts() for name in part.inputs_.channels))

    @property
    def needs(self) -> tuple[str, ...]:
        """The channels that a sample needs a file for."""
        return sources_of(self.channels)

    def warm_up(self) -> None:
        """Have everything compiled before the first request comes."""
        values = self.detector.values_
        flat: dict[str, NDArray[Any]] = dict.fromkeys(self.needs, values.like(np.full((128, 128, 3), 128, np.uint8)))
        if GEOMETRY_CHANNEL in flat:
            flat[GEOMETRY_CHANNEL] = _plane(values.depths.format)
        with contextlib.suppress(ImageError):  # a region of interest may have nothing of so small an image
            self.detector.predict(flat if len(flat) > 1 else next(iter(flat.values())))

    def describe(self) -> dict[str, Any]:
        """As the API shows it."""
        calibration = self.detector.calibration_
        described = {
            "name": self.name,
            "channels": list(self.channels),
            "needs": list(self.needs),
            "method": self.detector.method,
            "backbone": self.detector.backbone,
            "threshold": calibration.threshold,
            "false_alarm_rate": calibration.false_alarm_rate,
            "map_threshold": calibration.map_threshold,
            "images": self.detector.training_["images"],
            "file": shown(self.file.name),
            "version": self.version,
            "loaded_at": iso(self.loaded_at),
            "calibration_scores": [float(f"{score:.6g}") for score in calibration.scores],
        }
        plain: dict[str, Any] = finite(described)
        return plain


class Models:
    """By name: the file's stem, or the folder's in a registry (`registry.py`), whose file changes with each switch.
    Whoever uses a model takes it once and keeps it: a reload makes a new one."""

    def __init__(self, config: Config, on_reload: Callable[[str, str], None] = lambda name, outcome: None):
        self._config, self._on_reload = config, on_reload
        self._models: dict[str, Model] = {}
        self._versioned: dict[str, VersionedModel] = {}
        self._tried: dict[str, tuple[int, ...]] = {}  # the state of a file that was loaded, or could not be
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        given = {file.resolve() for file in config.models}
        others = sorted(config.models_dir.glob("*.patchbank")) if config.models_dir else []
        for file in (*config.models, *(f for f in others if f.resolve() not in given)):
            self.add(file)
        for versioned in self._registered():
            self.add_versioned(versioned)

    def __iter__(self) -> Iterator[Model]:
        return iter(sorted(self._models.values(), key=lambda model: model.name))

    def get(self, name: str) -> Model | None:
        return self._models.get(name)

    def add(self, file: Path) -> Model:
        """Load a further model. Raises `PatchbankError`; `OptionError` where another one has its name."""
        name = shown(file.stem)
        with self._lock:
            if name in self._models:
                raise OptionError(f"{file}: there is a model named {name} already; give the file another name")
            model = self._models[name] = self._load(name, file)
        return model

    def add_versioned(self, versioned: VersionedModel) -> Model:
        """Load a further model of the registry. Raises as `add` does."""
        name = versioned.name
        with self._lock:
            if name in self._versioned:  # the watching thread has seen it first
                return self._models[name]
            if name in self._models:
                raise OptionError(f"{versioned.folder}: there is a model named {name} already; rename one of them")
            model = self._models[name] = self._load(name, versioned.current())
            self._versioned[name] = versioned
        return model

    def add_new(self, made: Path, name: str) -> Model:
        """Take a new model's file into the registry that the stations share, and serve it. Raises as `add` does."""
        assert self._config.models_dir is not None
        versioned = model_of(self._config.models_dir, name)
        versioned.add(made, is_new=True)
        return self.add_versioned(versioned)

    def reload(self, name: str) -> Model:
        """Load a model's file again if it changed since. Raises `PatchbankError`, and the old one stays."""
        with self._lock:
            old = self._models[name]
            file = self._file_of(old)
            stamp = _stamp(file)
            if stamp == old.stamp:
                return old
            self._tried[name] = stamp
            if _version(file) == old.version:
                new = Model(name, file, old.detector, old.version, stamp, old.loaded_at)
            else:
                new = self._load(name, file)
            self._models[name] = new
        if new.version != old.version:
            _log.warning("%s: loaded again, version %s", name, new.version)
            self._on_reload(name, "loaded")
        return new

    def replace(self, name: str, detector: Detector) -> tuple[Model, str]:
        """Serve a changed detector from now on; and the name of the file that keeps the one before. Raises
        `PatchbankError` or `OSError`."""
        file, versioned = self._models[name].file, self._versioned.get(name)
        if versioned is None:
            backup = keep_copy(file)
            detector.save(file)
        else:
            backup = file
            with tempfile.TemporaryDirectory(prefix=".learn-", dir=versioned.folder) as folder:
                made = Path(folder, file.name)
                detector.save(made)
                versioned.add(made, "learn", after=file.stem)
        return self.reload(name), shown(backup.name)

    def open(self, file: Path) -> Detector:
        """A detector of its own, such as one that is going to be changed. Raises `PatchbankError`."""
        c = self._config
        return load(file, weights=c.weights, device=c.device, runtime=c.runtime, threads=c.threads)

    def _load(self, name: str, file: Path) -> Model:
        stamp = _stamp(file)
        version = _version(file) if stamp else ""  # before it is loaded: a file replaced meanwhile is seen as changed
        model = Model(name, file, self.open(file), version, stamp, time.time())
        if len(model.needs) > 1 and set(model.needs) != {RGB_CHANNEL, GEOMETRY_CHANNEL}:
            raise OptionError(
                f"{file}: looks at {', '.join(model.needs)}, and the service takes a picture (rgb), geometry (xyz) or "
                "both: serve a model of these"
            )
        return model

    def _file_of(self, model: Model) -> Path:
        """Where a model's file is now. Raises `ModelFileError`."""
        versioned = self._versioned.get(model.name)
        return model.file if versioned is None else versioned.current()

    def _registered(self) -> list[VersionedModel]:
        return models_below(self._config.models_dir) if self._config.models_dir else []

    # ---- hot reload --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look after the files from now on."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="patchbank-models", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        last: dict[str, tuple[int, ...]] = {}
        while not self._stopping.wait(_POLL):
            for model in list(self._models.values()):
                stamp, before = self._stamp_of(model), last.get(model.name)
                last[model.name] = stamp
                if stamp and stamp == before and stamp not in (model.stamp, self._tried.get(model.name)):
                    self._try(model.name)
            for versioned in self._registered():
                if versioned.name not in self._models:
                    self._try_new(versioned)

    def _stamp_of(self, model: Model) -> tuple[int, ...]:
        try:
            return _stamp(self._file_of(model))
        except PatchbankError:  # the list of versions cannot be read: the network is gone for a moment, say
            return ()

    def _try_new(self, versioned: VersionedModel) -> None:
        """Serve a model that another station, or a person, has put into the registry."""
        try:
            stamp = _stamp(versioned.current())
            if stamp == self._tried.get(versioned.name):
                return
            self._tried[versioned.name] = stamp
            model = self.add_versioned(versioned)
            _log.warning("%s: new in the registry, version %s", model.name, model.version)
        except PatchbankError as error:
            _log.error("%s: cannot be loaded from the registry: %s", versioned.name, error)
        except Exception:
            _log.exception("%s: cannot be loaded from the registry", versioned.name)

    def _try(self, name: str) -> None:
        try:
            self.reload(name)
        except PatchbankError as error:
            _log.error("%s: the replaced file cannot be loaded, the old model stays: %s", name, error)
            self._on_reload(name, "failed")
        except Exception:
            _log.exception("%s: the replaced file cannot be loaded, the old model stays", name)
            self._on_reload(name, "failed")


def _plane(format: DepthFormat) -> NDArray[np.float32]:
    """Depths of a slanted plate, as a file would have them."""
    millimetres = np.linspace(500, 510, 128)[:, None] + np.zeros(128)
    away = -millimetres if format.axis == "height" else millimetres
    stored: NDArray[np.float32] = ((away / (format.millimetres or 1.0) - format.offset) / format.scale).astype(
        np.float32
    )
    return stored


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        stat = file.stat()
    except OSError:  # gone for a moment, while it is replaced
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _version(file: Path) -> str:
    return file_digest(file)[:12]
