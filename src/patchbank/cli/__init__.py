"""The command line: one small module per command; torch is imported only when a command does its work."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from patchbank import __version__
from patchbank.cli import (
    audit,
    backbones,
    bank,
    benchmark,
    calibrate,
    compare,
    completion,
    datasets,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    fit,
    history,
    info,
    methods,
    models,
    plan,
    predict,
    report,
    serve,
    show_anomalies,
    watch,
)
from patchbank.cli.command import Command, Quiet, Verbose, as_command
from patchbank.cli.console import flush_output, hush, notices, print_anything, say, set_level
from patchbank.cli.interrupt import interruption
from patchbank.errors import OptionError, PatchbankError

app = typer.Typer(
    name="patchbank",
    help="Show it good parts, and it finds the bad ones.",
    no_args_is_help=True,
    add_completion=False,  # its options depend on the shell that runs; ours take its name
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",  # the default differs between versions, and `PlainHelp` must know it
    context_settings={"help_option_names": ["-h", "--help"]},
)
completion.prepare()
_SHOW = completion.shell_option(
    "--show-completion", completion.show, "Print the script that completes commands and options in a shell."
)
_INSTALL = completion.shell_option("--install-completion", completion.install, "Install that script for a shell.")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"patchbank {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    show_completion: Annotated[str | None, _SHOW] = None,
    install_completion: Annotated[str | None, _INSTALL] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Show it good parts, and it finds the bad ones."""
    set_level(verbose, quiet, anew=True)


_COMMANDS: tuple[Callable[..., None], ...] = (
    fit.fit,
    plan.plan,
    predict.predict,
    explain.explain,
    evaluate.evaluate,
    calibrate.calibrate,
    benchmark.benchmark,
    compare.compare,
    report.report,
    demo.demo,
    export.export,
    audit.audit,
    show_anomalies.show_anomalies,
    bank.add,
    bank.forget,
    bank.merge,
    serve.serve,
    watch.watch,
    info.info,
    doctor.doctor,
    backbones.backbones,
    methods.methods,
    datasets.datasets,
)
_WITHOUT_CONFIG = (compare.compare, report.report, info.info, doctor.doctor, backbones.backbones, methods.methods,
                   datasets.datasets)  # fmt: skip
COMMANDS = tuple(as_command(command, configurable=command not in _WITHOUT_CONFIG) for command in _COMMANDS)
for _command in COMMANDS:
    app.command(cls=Command)(_command)
app.add_typer(models.app, name="models")
app.add_typer(history.app, name="history")


def main() -> None:
    """Entry point. Exit codes: 0 done; 1 done, but some inputs failed; 2 wrong use, unreadable model, nothing to do."""
    # idle threads of torch's OpenMP spin for milliseconds and take the processor from the next stage; torch reads this
    # when it is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print_anything()
    with interruption() as pressed, notices():
        try:
            _run()
        except BaseException as stop:
            if pressed.raised or getattr(stop, "code", None) == 130:  # what the command-line library makes of Ctrl-C
                pressed.end()
            raise


def _run() -> None:
    """Run the command and leave with its exit code; a user's mistake, a full disk, a closed pipe are no tracebacks."""
    try:
        code = _invoke()
        flush_output()
    except PatchbankError as error:
        code = _refuse(str(error))
    except BrokenPipeError:  # `patchbank … | head`: the reader has what it wanted
        hush(sys.stdout)
        code = 0
    except OSError as error:  # such as a full disk
        code = _refuse(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except MemoryError:
        code = _refuse("there is not enough memory for this: close other programs, or use smaller or fewer images")
    sys.exit(code)


def _invoke() -> int:
    """The exit code of the command on the command line."""
    if any(not argument or _EMPTY.fullmatch(argument) for argument in sys.argv[1:]):
        raise OptionError('an argument is empty, perhaps an unset variable of the shell; write "." for this folder')
    try:
        return typer.main.get_command(app).main(prog_name="patchbank", standalone_mode=False) or 0
    except _MISUSE as error:
        if not error.format_message():  # nothing was asked for, and the help was printed
            return 2
        context = getattr(error, "ctx", None)
        help_command = f"{context.command_path} --help" if context else "patchbank --help"
        raise OptionError(f"{_one_line(error.format_message())} (see `{help_command}`)") from None


_EMPTY = re.compile(r"--?[a-z-]+=")
# the library that parses the command line is a package of its own, or a part of typer, depending on the version
_MISUSE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _one_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")


def _refuse(sentence: str) -> int:
    say(f"patchbank: {sentence}", err=True)
    return 2
