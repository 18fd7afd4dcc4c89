"""The command line: one small module per command; torch is imported only when a command does its work."""

from __future__ import annotations

import os
import sys

import typer

from patchbank import __version__
from patchbank.cli import (
    audit,
    backbones,
    bank,
    benchmark,
    calibrate,
    compare,
    datasets,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    fit,
    info,
    methods,
    predict,
    report,
    serve,
    watch,
)
from patchbank.cli.console import notices
from patchbank.cli.interrupt import interruption
from patchbank.errors import PatchbankError

app = typer.Typer(
    name="patchbank",
    help="Show it good parts, and it finds the bad ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"patchbank {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Show it good parts, and it finds the bad ones."""


app.command()(fit.fit)
app.command()(predict.predict)
app.command()(explain.explain)
app.command()(evaluate.evaluate)
app.command()(calibrate.calibrate)
app.command()(benchmark.benchmark)
app.command()(compare.compare)
app.command()(report.report)
app.command()(demo.demo)
app.command()(export.export)
app.command()(audit.audit)
app.command()(bank.add)
app.command()(bank.forget)
app.command()(bank.merge)
app.command()(serve.serve)
app.command()(watch.watch)
app.command()(info.info)
app.command()(doctor.doctor)
app.command()(backbones.backbones)
app.command()(methods.methods)
app.command()(datasets.datasets)


def main() -> None:
    """Entry point. Exit codes: 0 done; 1 done, but some inputs failed; 2 wrong use, unreadable model, nothing to do."""
    with interruption() as pressed, notices():
        try:
            _run()
        except BaseException as stop:
            if pressed.raised or getattr(stop, "code", None) == 130:  # what the command-line library makes of Ctrl-C
                pressed.end()
            raise


def _run() -> None:
    try:
        app()
    except PatchbankError as error:
        print(f"patchbank: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `patchbank … | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # such as a file where a folder is to be written
        print(f"patchbank: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
