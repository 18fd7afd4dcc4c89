"""Old spellings do what they did, say so in one line, and are not shown in help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from patchbank._system.former_names import GONE_IN
from patchbank.cli import app
from patchbank.cli.argv import Words, names_with_value, take_apart
from patchbank.cli.config import key_of
from patchbank.cli.old_spellings import _OF_COMMANDS, old_options, translate
from tests.cli.running import patchbank

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

# (command line in old spellings, the same in new ones, what is said)
CASES = [
    ("predict m x -o out", "predict m x -O out", "-o is now -O (--output-dir)"),
    ("predict m x --output out", "predict m x --output-dir out", "--output is now --output-dir (-O)"),
    ("predict m x --output=out", "predict m x --output-dir out", "--output is now --output-dir (-O)"),
    ("explain m x -oout", "explain m x -O out", "-o is now -O (--output-dir)"),
    ("evaluate m x -o out", "evaluate m x -O out", "-o is now -O (--output-dir)"),
    ("benchmark x -o out", "benchmark x -O out", "-o is now -O (--output-dir)"),
    ("compare a b -o out", "compare a b -O out", "-o is now -O (--output-dir)"),
    ("demo -o out", "demo -O out", "-o is now -O (--output-dir)"),
    ("audit x -o out", "audit x -O out", "-o is now -O (--output-dir)"),
    ("show-anomalies x -o out", "show-anomalies x -O out", "-o is now -O (--output-dir)"),
    ("export m -o out", "export m -O out", "-o is now -O (--output-dir)"),
    ("export m -O out --to openvino", "export m -O out --format openvino", "--to is now --format"),
    ("export m -O out --size 64x64", "export m -O out --input-size 64x64", "--size is now --input-size"),
    ("benchmark x -O o --every 3", "benchmark x -O o --subsample 3", "--every is now --subsample"),
    ("watch m f --every 2", "watch m f --interval 2", "--every is now --interval"),
    ("serve m --batch-wait 5", "serve m --batch-delay 0.005", "--batch-wait is now --batch-delay, in seconds"),
    ("serve m --max-pixels 64", "serve m --max-pixels 64MP", "--max-pixels 64 is now --max-pixels 64MP"),
    ("serve m --max-upload 1000", "serve m --max-upload 1000B", "--max-upload 1000 is now --max-upload 1000B"),
    ("serve m --keep-images 1000", "serve m --keep-images 1000B", "--keep-images 1000 is now"),
    ("fit x -o m --memory-budget 1000", "fit x -o m --memory-budget 1000B", "--memory-budget 1000 is now"),
    ("benchmark x -O o --cache 1000", "benchmark x -O o --cache 1000B", "--cache 1000 is now --cache 1000B"),
    ("evaluate m x -O o --pixel-memory 9000", "evaluate m x -O o --pixel-memory 9000B", "--pixel-memory 9000 is now"),
    ("plan --worker-memory 9000", "plan --worker-memory 9000B", "--worker-memory 9000 is now --worker-memory 9000B"),
    ("plan --network-mb 125", "plan --network-rate 125MB", "--network-mb is now --network-rate, such as 1250MB"),
    ("plan --round-trip-ms 5", "plan --round-trip 0.005", "--round-trip-ms is now --round-trip, in seconds"),
    ("fit x -o m --coreset 0.1", "fit x -o m --coreset-ratio 0.1", "--coreset is now --coreset-ratio"),
    ("fit x -o m --coreset stream", "fit x -o m --streaming", "--coreset stream is now --streaming"),
    ("fit x -o m --bank-mb 6", "fit x -o m --bank-memory 6MB", "--bank-mb is now --bank-memory, such as 6MB"),
    ("fit x -o m --max-minutes 30", "fit x -o m --max-seconds 1800", "--max-minutes is now --max-seconds"),
    *(
        (f"{line} --runtime torch", f"{line} --engine torch", "--runtime is now --engine")
        for line in (
            "fit x -o m", "predict m x -O o", "explain m x -O o", "evaluate m x -O o", "calibrate m x -o n",
            "benchmark x -O o", "audit x -O o", "demo -O o", "export m -O o", "add m x -o n", "serve m", "watch m f",
        )
    ),
    ("calibrate m good bad -o n", "calibrate m good --defects bad -o n", "the folder of defects is now --defects"),
]  # fmt: skip


def words_of(line: str, *, old: bool = False) -> Words:
    command, *words = line.split()
    parameters = COMMANDS[command].params
    options = [name for parameter in parameters for name in parameter.opts]
    extra = set(old_options(command, options)) if old else set()
    found = take_apart(words, names_with_value(parameters) | extra)
    assert found is not None
    return translate(command, found, options)


@pytest.mark.parametrize(("old", "new", "said"), CASES)
def test_an_old_spelling_is_translated(old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    as_new = words_of(new)
    assert capsys.readouterr().err == ""  # nothing is said about a new spelling
    as_old = words_of(old, old=True)
    assert sorted(as_old.options, key=str) == sorted(as_new.options, key=str)
    assert as_old.arguments == as_new.arguments
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"patchbank {old.split()[0]}: {said}")
    assert line.endswith(f"; the old spelling works until {GONE_IN}")


def test_every_old_spelling_has_a_case() -> None:
    cases = {tuple(re.split(r"[ =]", case[0].replace("-oout", "-o out"))) for case in CASES}
    for command in COMMANDS:
        options = [name for parameter in COMMANDS[command].params for name in getattr(parameter, "opts", ())]
        own = _OF_COMMANDS.get(command, {})
        for old in old_options(command, options):
            if old == "--output" or (old not in own and old != "--runtime"):  # those are the same for all commands
                assert any(old in case for case in cases), old
            else:
                assert any(case[0] == command and old in case for case in cases), (command, old)


def test_no_old_spelling_is_shown_or_new() -> None:
    for name, command in COMMANDS.items():
        options = {option for parameter in command.params for option in getattr(parameter, "opts", ())}
        for old, new in old_options(name, options).items():
            assert old not in options, f"{name} {old}"
            assert new.name in options, f"{name} {new.name}"


def test_values_that_look_like_options_are_left_alone() -> None:
    assert words_of("predict m x -O -o", old=True).options == [("-O", "-o")]
    assert words_of("predict m -O out -- -o", old=True).arguments == ["m", "-o"]
    assert take_apart(["m", "--output-dir"], {"--output-dir"}) is None


def test_watch_with_the_folder_first(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words_of(f"watch {tmp_path} {model_file}").arguments == [str(model_file), str(tmp_path)]
    assert "the model is now the first argument" in capsys.readouterr().err
    assert words_of(f"watch {model_file} {tmp_path}").arguments == [str(model_file), str(tmp_path)]
    assert capsys.readouterr().err == ""


def test_a_command_in_old_spellings(model_file: Path, parts: Path, tmp_path: Path) -> None:
    line = ["predict", model_file, parts / "test" / "good", "-o", tmp_path / "out", "--runtime", "torch"]
    done = patchbank(*line)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "predictions.csv").is_file()
    assert done.stderr.splitlines() == [
        f"patchbank predict: -o is now -O (--output-dir); the old spelling works until {GONE_IN}",
        f"patchbank predict: --runtime is now --engine; the old spelling works until {GONE_IN}",
    ]
    assert patchbank(*line, "-q").stderr == ""


def test_keys_of_files_are_new_spellings() -> None:
    keys = {key_of(parameter) for command in COMMANDS.values() for parameter in command.params}
    assert not keys & {"every", "runtime", "coreset", "bank-mb", "max-minutes", "size", "to", "batch-wait"}


def test_a_size_without_a_unit_that_nobody_means_is_refused() -> None:
    done = patchbank("fit", "good", "-o", "m.patchbank", "--memory-budget", "4")
    assert done.returncode == 2
    assert "--memory-budget 4: has no unit: write 4GB or 4MB" in done.stderr
