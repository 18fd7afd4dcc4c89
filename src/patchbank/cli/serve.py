"""`patchbank serve`: models behind an HTTP API, with a history of every inspection."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank._system.remote import is_remote
from patchbank.cli import options as o
from patchbank.cli.console import note
from patchbank.cli.numbers import MOST_SECONDS
from patchbank.cli.opening import say_if_undecided
from patchbank.cli.outputs import check_file, check_folder
from patchbank.cli.values import parse_bytes, parse_pixels
from patchbank.errors import MissingPackageError, OptionError

if TYPE_CHECKING:
    import uvicorn

_LIMITS = "Limits"
_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL", help="Model files; a model's name is its file's.")
    ] = None,
    *,
    machine: o.Machine,
    models_dir: Annotated[
        Path | None, typer.Option(help="A folder whose models are served too, and where new ones go.")
    ] = None,
    fit_root: Annotated[
        Path | None, typer.Option(help="A folder below which the page may learn from good images.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(help="What clients must send (others on this machine may see it: --token-file).")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="A file that holds the token.")] = None,
    history: Annotated[
        str, typer.Option(help="Record of every inspection: an SQLite file, or postgresql://HOST/DATABASE to share.")
    ] = "patchbank-history.sqlite",
    images: Annotated[
        Path | None,
        typer.Option(help="Folder for the images of a history in PostgreSQL, which all stations see, or s3://…."),
    ] = None,
    keep_images: Annotated[
        str, typer.Option(metavar="SIZE", help="Keep inspected images beside the history, oldest go first; 0: none.")
    ] = "2GB",
    max_upload: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest body of an inspection.", rich_help_panel=_LIMITS)
    ] = "32MB",
    max_pixels: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest image.", rich_help_panel=_LIMITS)
    ] = "64MP",
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="Maximum number of waiting images; more are refused with 429.", rich_help_panel=_LIMITS
        ),
    ] = 64,
    time_limit: Annotated[
        float,
        typer.Option(
            min=0.001, max=MOST_SECONDS, rich_help_panel=_LIMITS,
            help="Time for one request with its upload, in seconds.",
        ),
    ] = 30,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of waiting images inspected together.", rich_help_panel=_LIMITS),
    ] = 16,
    batch_delay: Annotated[
        float | None,
        typer.Option(
            min=0, max=60, help="Time to wait for more of them, in seconds [default: 0.005 on a GPU, else 0].",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    weights: o.Weights = None,
) -> None:  # fmt: skip
    """Serve models over HTTP: inspections, their history, and what people decide about them."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(
                f"serve needs packages that are missing: `pip install patchbank[serve]` ({package})"
            )
    from patchbank.service.config import Config
    from patchbank.service.store import history_of

    kept = history_of(history)
    config = Config(
        models=tuple(models or ()),
        models_dir=models_dir,
        fit_root=fit_root,
        history=kept,
        images=images,
        host=host,
        port=port,
        token=_token(token, token_file),
        max_upload=parse_bytes(max_upload, "--max-upload"),
        max_pixels=parse_pixels(max_pixels, "--max-pixels"),
        keep_images=parse_bytes(keep_images, "--keep-images"),
        queue=queue,
        time_limit=time_limit,
        batch=batch,
        batch_wait=batch_delay,
        weights=weights,
        **machine.options(),
    )
    shown_history = _check_history(kept)
    if images is not None and not is_remote(images):
        check_folder(images, "--images")
    if fit_root is not None and models_dir is not None:
        check_folder(models_dir, "--models-dir")
    listening = _listen(host, port)
    from patchbank.service.app import build_app

    app = build_app(config)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    for model in app.state.service.models:
        say_if_undecided(model.file, model.detector, takes=False)
    names = ", ".join(model.name for model in app.state.service.models)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}"
    _server(app, f"serving {names} at {address} (history: {shown_history}); Ctrl-C stops").run(sockets=[listening])


def _check_history(history: str | Path) -> str:
    """How a history is shown to people, without a password. Raises `OptionError` where it cannot be used."""
    if isinstance(history, Path):
        check_file(history, "the SQLite file of the history", "--history")
        return str(history)
    from patchbank.service.stations.address import require_packages, shown_address

    require_packages()
    return shown_address(history)


def _token(token: str | None, file: Path | None) -> str | None:
    if token is not None and file is not None:
        raise OptionError("give only one of --token and --token-file")
    if file is None:
        return token
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{file}: the token cannot be read ({getattr(error, 'strerror', error)})") from None


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: a port in use is found out before the models are loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise OptionError(
            f"cannot listen on {host}, port {port} ({error.strerror}): choose another with --port"
        ) from None
    return listening


def _server(app: Any, greeting: str) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            note(greeting)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Stop at Ctrl-C and SIGTERM, after what was accepted is answered; that is a good end, so unlike uvicorn's
            own this does not raise the signal again afterwards."""
            before = {n: signal.signal(n, self.handle_exit) for n in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
