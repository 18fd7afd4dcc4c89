"""What all commands share: groups of options, `-v` and `-q`, `--config`, old spellings, and help as it is written."""

from __future__ import annotations

import copy
import functools
import inspect
import time
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank.cli import config
from patchbank.cli.argv import Words, names_with_value, take_apart
from patchbank.cli.console import detail, say, set_level
from patchbank.cli.help import PlainHelp
from patchbank.cli.numbers import refuse_odd
from patchbank.cli.old_spellings import old_options, translate
from patchbank.errors import OptionError

_OUTPUT = "What is printed"
Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", help="Also print what was decided, and how long it took.", rich_help_panel=_OUTPUT),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print results and errors only.", rich_help_panel=_OUTPUT)
]  # fmt: skip
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Take options from this TOML or YAML file; the command line wins. Relative paths in it are relative to "
        "its folder. --no-OPTION turns off a switch of the file.",
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the options as a TOML file for --config, and do nothing else.")
]
_OF_ALL = {"verbose": (Verbose, False), "quiet": (Quiet, False)}
_OF_CONFIG = {"config": (Config, None), "print_config": (PrintConfig, False)}


def as_command(function: Callable[..., None], *, configurable: bool = True) -> Callable[..., None]:
    """The function of a command with the options of all commands.

    A parameter whose type is a dataclass becomes an option for each of its fields. Numbers that are infinite, none, or
    larger than the system counts are refused.
    """
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            own = typing.get_type_hints(kind, include_extras=True)
            parameters += [_parameter(field.name, own[field.name], field.default) for field in fields(kind)]
        else:
            parameters.append(_parameter(parameter.name, kind, parameter.default))
    added = _OF_ALL | (_OF_CONFIG if configurable else {})
    parameters += [_parameter(name, kind, default) for name, (kind, default) in added.items()]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        given = {name: value for name, value in values.items() if name not in added}
        refuse_odd(given)
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        function(**given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.kinds = {parameter.name: _kind(parameter.annotation) for parameter in parameters}  # type: ignore[attr-defined]
    del command.__wrapped__
    return command


plain = functools.partial(as_command, configurable=False)


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _kind(hint: Any) -> tuple[type, bool]:
    """The type of a parameter, without None, and whether it takes a list."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    return hint, False


class Command(PlainHelp):
    """A command that takes old spellings and `--config`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # a completion has half a command line
            args = self._translated(ctx, args)
        rest = super().parse_args(ctx, args)
        set_level(ctx.params.get("verbose"), ctx.params.get("quiet"))
        return rest

    def _translated(self, ctx: Any, args: list[str]) -> list[str]:
        parameters = self.params
        options = [name for parameter in parameters for name in getattr(parameter, "opts", ())]
        words = take_apart(args, names_with_value(parameters) | set(old_options(ctx.info_name, options)))
        if words is None or any(name in ("-h", "--help") for name, _ in words.options):
            return args
        names = [name for name, _ in words.options]
        set_level("-v" in names or "--verbose" in names, "-q" in names or "--quiet" in names)
        words = translate(ctx.info_name, words, options)
        ctx.meta["printing"] = "--print-config" in options and "--print-config" in names
        files = [value for name, value in words.options if name == "--config" and "--config" in options]
        if files and files[-1]:
            words = self._with_config(ctx, words, Path(files[-1]))
        return words.joined()

    def _with_config(self, ctx: Any, words: Words, path: Path) -> Words:
        """The words of the file before those of the command line, which win."""
        section = config.read_section(path, ctx.info_name, sorted(ctx.parent.command.commands) if ctx.parent else [])
        values = config.values_of(path, section, self.params, self.callback.kinds)  # type: ignore[union-attr]
        given = {name for name, _ in words.options}
        ctx.meta["from_file"] = (path, set())
        places = [p.name for p in self.params if p.param_type_name == "argument"]
        found = Words(arguments=list(words.arguments))
        for parameter in self.params:
            if parameter.name not in values:
                continue
            value = values[parameter.name]
            _check(ctx, path, parameter, value)
            if parameter.param_type_name == "argument":
                if places.index(parameter.name) >= len(words.arguments):
                    found.arguments += value if isinstance(value, list) else [value]
                continue
            off = f"--no-{config.key_of(parameter)}"
            overruled = given & {*parameter.opts, *parameter.secondary_opts, off}
            if not overruled or parameter.name == "assignments":  # --set adds to those of the file
                found.options += _as_words(parameter, value)
                ctx.meta["from_file"][1].add(config.key_of(parameter))
            if off in given and off not in parameter.secondary_opts:
                words.options = [word for word in words.options if word[0] != off]
        found.options += words.options
        return found

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; none is required where they are only printed."""
        if not ctx.meta.get("printing"):
            return super().get_params(ctx)
        if "relaxed" not in ctx.meta:
            ctx.meta["relaxed"] = [copy.copy(parameter) for parameter in super().get_params(ctx)]
            for parameter in ctx.meta["relaxed"]:
                parameter.required = False
        return ctx.meta["relaxed"]  # type: ignore[no-any-return]

    def invoke(self, ctx: Any) -> Any:
        if ctx.meta.get("printing"):
            summary = (self.help or "").strip().partition("\n")[0]
            kinds = self.callback.kinds  # type: ignore[union-attr]
            say(config.as_toml(ctx.info_name, summary, self.params, kinds, ctx.params))
            return None
        started = time.perf_counter()
        try:
            return super().invoke(ctx)
        except OptionError as error:
            path, keys = ctx.meta.get("from_file", (None, ()))
            if any(f"--{key}" in str(error) for key in keys):
                raise OptionError(f"{path}: {error}") from error
            raise
        finally:
            detail(f"patchbank {ctx.info_name} took {time.perf_counter() - started:.1f} s")


def _as_words(parameter: Any, value: Any) -> list[tuple[str, str | None]]:
    """A value of a file as options of the command line."""
    option = max(parameter.opts, key=len)
    if value is True:
        return [(option, None)]
    if value is False:
        return [(name, None) for name in parameter.secondary_opts[:1]]
    return [(option, one) for one in (value if isinstance(value, list) else [value])]


def _check(ctx: Any, path: Path, parameter: Any, value: Any) -> None:
    """Raise `OptionError` for a value that the command line would refuse too."""
    try:
        parameter.process_value(ctx, tuple(value) if isinstance(value, list) else value)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        words = " ".join(str(getattr(error, "message", error)).split()).removesuffix(".")
        raise OptionError(f"{path}: {config.key_of(parameter)}: {words}, not {value!r}") from None
