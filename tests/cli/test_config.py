"""`--config` and `--print-config`: what is in a file, what wins, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from patchbank.cli import _WITHOUT_CONFIG, app
from patchbank.cli.command import Command
from tests.cli.running import patchbank

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WITH = [name for name in COMMANDS if "config" in {parameter.name for parameter in COMMANDS[name].params}]


def printed(*arguments: object) -> dict[str, Any]:
    """The section that --print-config prints."""
    done = patchbank(*arguments, "--print-config")
    assert done.returncode == 0, done.stderr
    (section,) = tomllib.loads(done.stdout).values()
    assert isinstance(section, dict)
    return section


def test_a_production_fit_is_a_file(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "fit.toml").write_text(
        f'good = "../parts"\noutput = "../out.patchbank"\nimage-size = 96\nbank_size = 50\nset = ["neighbours=0"]\n'
        f'false-alarm-rate = 0.2\nthreads = 1\n# {parts}\n'
    )  # fmt: skip
    (tmp_path / "parts").symlink_to(parts)
    done = patchbank("fit", "--config", tmp_path / "conf" / "fit.toml", "--bank-size", 40)
    assert done.returncode == 0, done.stderr
    described = json.loads(patchbank("info", tmp_path / "out.patchbank", "--json").stdout)
    assert described["bank_vectors"] == 40  # the command line wins
    assert described["false_alarm_rate"] == 0.2
    assert described["options"]["neighbours"] == 0


def test_a_yaml_file_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "a.toml").write_text('good = "g"\noutput = "m"\ntune = true\nset = ["a=1", "b=2"]\nimage-size = 64\n')
    (tmp_path / "a.yaml").write_text("good: g\noutput: m\ntune: yes\nset: [a=1, b=2]\nimage-size: 64\n")
    one, other = (printed("fit", "--config", tmp_path / f"a.{ending}") for ending in ("toml", "yaml"))
    assert one == other
    assert (one["good"], one["tune"], one["set"]) == (str(tmp_path / "g"), True, ["a=1", "b=2"])


GIVEN = {
    "fit": "x -o m --streaming --bank-memory 6MB --layout mvtec --levels 2,3 --roi r.png --tune --set sigma=2 "
    "--set a=b --seed 3 --false-alarm-rate 0.05 --weights w.pth --group-by g.csv --channels rgb,normals --invalid 0,-1",
    "plan": "--images 10 --workers 2 --round-trip 0.1",
    "predict": "m a b -O o --no-overlays --maps --threshold 3.5 --ray local --workers 2",
    "explain": "m a -O o --at 3,4",
    "evaluate": "m d -O o --split s.json",
    "calibrate": "m g --defects b -o n --cost-ratio 3",
    "benchmark": "d1 d2 -O o --methods padim,spade --seeds 0,1 --cache 1GB --align",
    "demo": "-O o --3d",
    "export": "m -O o --images a --images b --int8 --input-size 64x64",
    "audit": "g -O o --top 3",
    "show-anomalies": "g -O o --kinds scar",
    "add": "m g h --in-place",
    "forget": "m 1.png 2.png -o n",
    "merge": "a b c -o d",
    "serve": "a b --port 0 --max-pixels 12MP --batch-delay 0.01 --history h.sqlite",
    "watch": "m f --interval 2 --webhook http://127.0.0.1:9/x",
}


@pytest.mark.parametrize("name", WITH)
def test_what_is_printed_gives_the_same_values(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from another folder."""
    monkeypatch.chdir(tmp_path)
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(Command, "invoke", lambda self, ctx: seen.append(dict(ctx.params)))
    assert patchbank(name, *GIVEN[name].split()).returncode == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    done = patchbank(name, *GIVEN[name].split(), "--print-config")
    assert done.returncode == 0, done.stderr
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "c.toml"
    file.write_text(done.stdout)
    monkeypatch.setattr(Command, "invoke", lambda self, ctx: seen.append(dict(ctx.params)))
    assert patchbank(name, "--config", file).returncode == 0
    paths = {key for key, kind in COMMANDS[name].callback.kinds.items() if kind[0] is Path}
    paths |= {"weights", "group_by", "history"}
    first, second = ({k: absolute(v, tmp_path, k in paths) for k, v in s.items() if k != "config"} for s in seen)
    assert first == second
    assert any(value != parameter.default for parameter in COMMANDS[name].params for value in [first[parameter.name]])


def absolute(value: Any, folder: Path, is_path: bool) -> Any:
    if isinstance(value, list | tuple):
        return [absolute(one, folder, is_path) for one in value]
    return str(folder / value) if is_path and value else value


def test_all_but_the_smallest_commands_take_a_file() -> None:
    without = {function.__name__ for function in _WITHOUT_CONFIG}
    assert set(WITH) == set(COMMANDS) - without - {"models", "history"} == set(GIVEN)


def test_a_template_needs_no_arguments() -> None:
    done = patchbank("fit", "--print-config")
    assert done.returncode == 0, done.stderr
    assert "[fit]" in done.stdout
    assert "# good = " in done.stdout
    assert 'method = "patchcore"' in done.stdout
    assert "as a TOML file for --config" in " ".join(patchbank("fit", "--help").stdout.replace("│", " ").split())


def test_sections(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text('[fit]\ngood = "g"\noutput = "m"\n[predict]\nmodel = "m"\nimages = ["a", "b"]\n')
    assert printed("fit", "--config", file)["good"] == str(tmp_path / "g")
    assert printed("predict", "--config", file)["images"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert printed("predict", "other", "--config", file)["model"] == str(Path("other").absolute())


def test_what_wins(tmp_path: Path) -> None:
    """Command line > file > default."""
    file = tmp_path / "c.toml"
    file.write_text('images = "x"\nmodel = "m"\nmaps = true\noverlays = false\ndevice = "cpu"\nthreshold = 1\n')
    assert printed("predict", "m", "x")["device"] == "auto"
    found = printed("predict", "--config", file)
    assert (found["maps"], found["overlays"], found["device"], found["threshold"]) == (True, False, "cpu", 1.0)
    found = printed("predict", "--config", file, "--no-maps", "--overlays", "--device", "auto", "--threshold", 2)
    assert (found["maps"], found["overlays"], found["device"], found["threshold"]) == (False, True, "auto", 2.0)
    sets = tmp_path / "s.toml"
    sets.write_text('set = ["sigma=1", "neighbours=3"]\n')
    assert printed("fit", "--config", sets, "--set", "sigma=2")["set"] == ["sigma=1", "neighbours=3", "sigma=2"]


def test_addresses_and_words_are_no_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('good = "s3://bucket/parts"\nweights = "random"\ngroup-by = "folder"\n')
    found = printed("fit", "--config", tmp_path / "c.toml")
    assert (found["good"], found["weights"], found["group-by"]) == ("s3://bucket/parts", "random", "folder")
    (tmp_path / "s.toml").write_text('history = "postgresql://host/db"\n')
    assert printed("serve", "--config", tmp_path / "s.toml")["history"] == "postgresql://host/db"


REFUSED = {
    "colour = 3": "colour: is no option of this command; its --help lists them",
    "imagesize = 64": "imagesize: is no option of this command; did you mean image-size?",
    'image-size = "large"': 'image-size: takes a whole number, not "large"',
    "image-size = 3.5": "image-size: takes a whole number, not 3.5",
    "image-size = true": "image-size: takes a whole number, not true",
    "image-size = 5": "image-size: ",
    'tune = "yes"': 'tune: takes true or false, not "yes"',
    "good = 5": "good: takes a path, not 5",
    'good = ""': 'good: takes a path, not ""',
    'layout = "tree"': "--layout must be one of auto, folder",
    "levels = [2, 3]": "levels: takes a text, not [2, 3]",
    "set = [[1]]": "set: takes a text, not [1]",
    "config = 'x'": "config: is no option of this command",
    "memory-budget = '4'": "--memory-budget takes a size with its unit",
    "coreset-ratio = 3": "--coreset-ratio must lie in (0, 1]",
    "levels = 'two'": "--levels takes numbers such as 2,3",
    "image-size 5": "is no TOML that can be read",
    "seed = 1\n[fit]\nimage-size = 64": "seed stands outside of the sections: put it below [fit]",
    "[predict]\nmaps = true": "has no section [fit], only [predict]: add it",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_mistake_in_a_file_is_one_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "fit.toml"
    file.write_text(text)
    done = patchbank("fit", tmp_path, "-o", tmp_path / "m.patchbank", "--config", file)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"patchbank: {file}: ")
    assert REFUSED[text] in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.ini", "", "takes a file that ends with .toml, .yaml or .yml"),
        ("c.yaml", "a: [", "is no YAML that can be read"),
        ("c.yaml", "- a", "must hold keys with values"),
        (
            "c.yaml",
            "[fit]\nseed = 3\n",
            "holds TOML, as --print-config prints it: give the file a name that ends with .toml",
        ),
        ("c.yml", "seed = 3\n", "holds TOML"),
        ("none.toml", None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_is_none(name: str, text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    done = patchbank("fit", tmp_path, "-o", tmp_path / "m", "--config", tmp_path / name)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_yaml_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "c.yaml").write_text("seed: 3")
    done = patchbank("fit", tmp_path, "-o", tmp_path / "m", "--config", tmp_path / "c.yaml")
    assert done.returncode == 2
    assert "pip install 'patchbank[yaml]'" in done.stderr
