"""`patchbank history`: move histories of SQLite into one that stations share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli.command import Command, plain
from patchbank.cli.console import say
from patchbank.errors import OptionError

app = typer.Typer(help="Histories of `patchbank serve`.", no_args_is_help=True)


@app.command(cls=Command)
@plain
def migrate(
    sources: Annotated[list[str], typer.Argument(metavar="SQLITE… POSTGRESQL", help="sqlite:FILE…, then the address.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder for the images, which all stations see, or s3://…; without it they stay behind."),
    ] = None,
) -> None:
    """Move SQLite histories into an empty PostgreSQL database: all of it, or nothing. The files stay as they are.

    One history keeps its ids. Several are merged by time and get new ids.
    """
    from patchbank.service.store import history_of

    *before, target = [history_of(source) for source in sources]
    files = [source for source in before if isinstance(source, Path)]
    if not isinstance(target, str) or not files or len(files) < len(before):
        raise OptionError("history migrate takes SQLite files, and last postgresql://HOST/DATABASE")
    from patchbank.service.stations.address import require_packages, shown_address

    require_packages()
    from patchbank.service.stations.images import images_in
    from patchbank.service.stations.moving import move

    moved, copied = move(files, target, images_in(images) if images else None)
    say(f"moved {moved} inspections, {copied} with their images, to {shown_address(target)}")
