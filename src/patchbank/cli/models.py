"""`patchbank models`: the versions of each model that stations share, and which one is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank.cli import options as o
from patchbank.cli.command import Command, plain
from patchbank.cli.console import say
from patchbank.errors import OptionError

app = typer.Typer(help="A folder of models with all their versions, for `patchbank serve --models-dir`.",
                  no_args_is_help=True)  # fmt: skip
Folder = Annotated[Path, typer.Argument(help="The folder: FOLDER/NAME/VERSIONS says which version is served.")]
Name = Annotated[str, typer.Argument(help="The name of a model.")]


@app.command("list", cls=Command)
@plain
def list_models(folder: Folder, as_json: o.Json = False) -> None:
    """List the models, their versions, and which is served."""
    from patchbank.service.registry import models_below

    if not folder.is_dir():
        raise OptionError(f"{folder}: is not a folder of models")
    found: list[dict[str, Any]] = []
    for model in models_below(folder):
        state = model.state()
        when = {change.version: change for change in state.changes}
        for version in model.versions():
            row = {"name": model.name, "version": version, "is_served": version == state.current}
            last = when.get(version)
            found.append({**row, "action": last.action if last else None, "at": _iso(last.at) if last else None})
    if as_json:
        say(json.dumps(found))
        return
    for row in found:
        served = "served" if row["is_served"] else ""
        say(f"{row['name']:24} {row['version']}  {served:6}  {row['action'] or ''} {row['at'] or ''}".rstrip())


@app.command(cls=Command)
@plain
def add(folder: Folder, name: Name, file: Annotated[Path, typer.Argument(help="A model file, copied in.")]) -> None:
    """Add a model file as a new version, and serve it."""
    from patchbank.io.model_file import read
    from patchbank.service.registry import model_of

    model = model_of(folder, name)
    read(file)
    say(f"{name}: version {model.add(file)} is served now")


@app.command(cls=Command)
@plain
def switch(
    folder: Folder, name: Name, version: Annotated[str, typer.Argument(help="The version, or its first digits.")]
) -> None:
    """Serve another version. Stations follow within two seconds, and no request fails."""
    from patchbank.io.model_file import read
    from patchbank.service.registry import model_of

    say(f"{name}: version {model_of(folder, name).switch(version, read)} is served now")


@app.command(cls=Command)
@plain
def rollback(folder: Folder, name: Name) -> None:
    """Serve the version before the present one."""
    from patchbank.io.model_file import read
    from patchbank.service.registry import model_of

    say(f"{name}: version {model_of(folder, name).rollback(read)} is served again")


def _iso(at: float) -> str | None:
    from patchbank.service.records import iso

    return iso(at)
