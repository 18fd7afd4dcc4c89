"""What a service is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from patchbank.errors import OptionError
from patchbank.service.store import is_shared


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that `patchbank serve` can be told.

    `time_limit` in seconds for one request, upload included; `queue`: images accepted and not yet answered; `batch`:
    images of waiting requests that the model sees together, `batch_wait` the seconds it waits for more to come (None:
    what suits the device). Sizes in bytes. `models_dir`: its models are served too, and new ones go there; `fit_root`:
    below it are the folders that the page may learn from (None: it learns nothing). `history`: a file of SQLite, or the
    address of a PostgreSQL database that several stations share; `images`: the folder, which they share as well, for
    the images of such a history.
    """

    models: tuple[Path, ...]
    history: Path | str
    images: Path | None = None
    models_dir: Path | None = None
    fit_root: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_upload: int = 32_000_000
    max_pixels: int = 64_000_000
    keep_images: int = 2_000_000_000
    queue: int = 64
    time_limit: float = 30.0
    batch: int = 16
    batch_wait: float | None = None
    weights: str | None = None
    device: str = "auto"
    runtime: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.models and self.models_dir is None:
            raise OptionError("give at least one model file to serve, or a folder of models with --models-dir")
        if self.is_shared and self.images is None and self.keep_images > 0:
            raise OptionError(
                "a history in PostgreSQL keeps its images in a folder that all stations see, or s3://…: name it with "
                "--images, or keep none with --keep-images 0"
            )
        if not self.is_shared and self.images is not None:
            raise OptionError("--images is for a history in PostgreSQL; SQLite keeps images beside its file")
        for name, folder in (("--models-dir", self.models_dir), ("--fit-root", self.fit_root)):
            if folder is not None and not folder.is_dir():
                raise OptionError(f"{folder}: is not a folder; {name} takes one")
        if self.token is not None and (len(self.token) < 8 or not self.token.isascii()):
            raise OptionError("the token must have at least 8 characters, all of them ASCII")
        if self.token is None and not is_loopback(self.host):
            raise OptionError(
                f"host {self.host} can be reached from other machines: give a token with --token-file FILE "
                "(or --token), or serve on 127.0.0.1"
            )

    @property
    def is_shared(self) -> bool:
        """Whether other stations use this history, and so this folder of models, too."""
        return is_shared(self.history)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
