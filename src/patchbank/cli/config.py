"""`--config FILE`: the options of a command from a TOML or YAML file, and `--print-config`, which prints one.

The keys are the names of options and arguments. Relative paths are relative to the folder of the file.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from patchbank._system.remote import is_remote, located
from patchbank.errors import MissingPackageError, OptionError, did_you_mean

OWN = ("config", "print_config", "help", "verbose", "quiet")  # parameters that no file has
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
# texts that are paths, unless they say something else
_PATHS: dict[str, Callable[[str], bool]] = {
    "weights": lambda text: text != "random",
    "group_by": lambda text: text.endswith(".csv"),
    "history": lambda text: ":" not in text,
}


def read_section(path: Path, command: str, commands: Sequence[str]) -> dict[str, Any]:
    """What a file says for a command: its section, or all of a file without sections. Raises `OptionError`."""
    document = _read(path)
    sections = [key for key in document if key in commands and isinstance(document[key], dict)]
    if not sections:
        return document
    if loose := [str(key) for key in document if key not in sections]:
        raise OptionError(f"{path}: {loose[0]} stands outside of the sections: put it below [{sections[0]}]")
    if command not in sections:
        names = ", ".join(f"[{name}]" for name in sections)
        raise OptionError(f"{path}: has no section [{command}], only {names}: add it")
    return dict(document[command])


def _read(path: Path) -> dict[str, Any]:
    if path.suffix.lower() not in (".toml", ".yaml", ".yml"):
        raise OptionError(f"{path}: --config takes a file that ends with .toml, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise OptionError(f"{path}: cannot be read ({reason}): give another file with --config") from None
    document = _parse_toml(path, text) if path.suffix.lower() == ".toml" else _parse_yaml(path, text)
    if not isinstance(document, dict):
        raise OptionError(f"{path}: must hold keys with values, such as `image-size: 384`")
    return document


def _parse_toml(path: Path, text: str) -> Any:
    try:
        return _loads_toml(text)
    except ValueError as error:
        raise OptionError(f"{path}: is no TOML that can be read ({error}): mend that place") from None


def _loads_toml(text: str) -> dict[str, Any]:
    """What a TOML text says. Raises `ValueError`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    document: dict[str, Any] = tomllib.loads(text)
    return document


def _is_toml(text: str) -> bool:
    """Whether a text sets values in TOML, such as what --print-config prints."""
    try:
        return bool(_loads_toml(text))
    except ValueError:
        return False


def _parse_yaml(path: Path, text: str) -> Any:
    if _is_toml(text):
        raise OptionError(f"{path}: holds TOML, as --print-config prints it: give the file a name that ends with .toml")
    try:
        import yaml
    except ImportError:
        raise MissingPackageError(
            f"{path}: YAML needs a package: `pip install 'patchbank[yaml]'`, or write the file as TOML"
        ) from None
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise OptionError(f"{path}: is no YAML that can be read ({words}): mend that place") from None


def values_of(
    path: Path, section: Mapping[str, Any], parameters: Sequence[Any], kinds: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of parameters that a section names, as texts of a command line (switches as bool), by parameter.

    Args:
        path: the file, whose folder relative paths are relative to.
        section: keys and values.
        parameters: those of the command.
        kinds: the type of each.

    Raises:
        OptionError: a key is unknown, or its value has another type.
    """
    known = {key_of(parameter): parameter.name for parameter in parameters if parameter.name not in OWN}
    found: dict[str, Any] = {}
    for key, value in section.items():
        name = known.get(str(key).replace("_", "-"))
        if name is None:
            advice = did_you_mean(str(key).replace("_", "-"), known) or "its --help lists them"
            raise OptionError(f"{path}: {key}: is no option of this command; {advice}")
        kind, is_list = kinds[name]
        if is_list:
            values = value if isinstance(value, list) else [value]
            found[name] = [_text(path, key, name, one, kind) for one in values]
        else:
            found[name] = _text(path, key, name, value, kind)
    return found


def key_of(parameter: Any) -> str:
    """The name of a parameter in a file: that of its option, without dashes, or of its argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.name).replace("_", "-")
    return max(parameter.opts, key=len).lstrip("-")  # type: ignore[no-any-return]


def _text(path: Path, key: str, name: str, value: Any, kind: type) -> Any:
    """A value as the command line would have it."""
    fits = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool),
        str: isinstance(value, str | int | float) and not isinstance(value, bool),
        Path: isinstance(value, str) and value != "",
    }
    if not fits[kind]:
        raise OptionError(f"{path}: {key}: takes {_WORDS[kind]}, not {json.dumps(value, default=str)}")
    if kind is bool:
        return value
    text = str(value)
    if (kind is Path or _PATHS.get(name, _never)(text)) and not is_remote(Path(text)):
        return str(path.parent / text)
    return text


def _never(text: str) -> bool:
    return False


def as_toml(
    command: str,
    summary: str,
    parameters: Sequence[Any],
    kinds: Mapping[str, tuple[type, bool]],
    values: Mapping[str, Any],
) -> str:
    """A file with the values of all parameters; those without a value are comments."""
    lines = [f"# {summary}", "# Relative paths are relative to the folder of this file.", f"[{command}]"]
    for parameter in parameters:
        if parameter.name in OWN or getattr(parameter, "hidden", False):
            continue
        value, key = values.get(parameter.name), key_of(parameter)
        if value is None or (isinstance(value, list | tuple) and not value):
            lines.append(f"# {key} = ")
        else:
            lines.append(f"{key} = {_toml(parameter.name, kinds[parameter.name][0], value)}")
    return "\n".join(lines)


def _toml(name: str, kind: type, value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(name, kind, one) for one in value)}]"
    if kind is Path:  # of the parameter: older parsers make a text of it until the command runs
        return _quoted(str(located(value)) if is_remote(value) else os.path.abspath(value))
    if isinstance(value, str):
        return _quoted(os.path.abspath(value) if _PATHS.get(name, _never)(value) else value)
    return json.dumps(value)  # switches and numbers


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
