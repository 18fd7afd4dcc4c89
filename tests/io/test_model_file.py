"""The model file: bit-identical round trip, atomic write, and a clear error for each way a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import patchbank
from patchbank import PatchCore
from patchbank.errors import ModelFileError, OptionError, WeightsError
from patchbank.io import model_file as modelfile
from tests.conftest import bad_image, small_model


def test_round_trip_is_bit_identical(fitted: PatchCore, model_file: Path) -> None:
    again = patchbank.load(model_file)
    for seed in range(3):
        before, after = fitted.predict(bad_image(seed)), again.predict(bad_image(seed))
        assert before.score == after.score
        assert np.array_equal(before.map, after.map)
        assert before.regions == after.regions
        assert before.p_value == after.p_value
        assert before.nearest(5, 5) == after.nearest(5, 5)
    assert again.parameters() == fitted.parameters()


def test_saving_twice_gives_the_same_bytes(fitted: PatchCore, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a.patchbank")
    fitted.save(tmp_path / "b.patchbank")
    assert (tmp_path / "a.patchbank").read_bytes() == (tmp_path / "b.patchbank").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.patchbank", "b.patchbank"]


@pytest.mark.parametrize("kept", [0.001, 0.2, 0.5, 0.99])
def test_truncated(model_file: Path, tmp_path: Path, kept: float) -> None:
    data = model_file.read_bytes()
    cut = tmp_path / "cut.patchbank"
    cut.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ModelFileError, match=r"cut\.patchbank: is truncated or damaged"):
        patchbank.load(cut)


def test_any_flipped_bit_is_found(model_file: Path, tmp_path: Path) -> None:
    data = bytearray(model_file.read_bytes())
    flipped = tmp_path / "flipped.patchbank"
    rng = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little")
    places = [*rng.integers(9, 8 + header, 30), *rng.integers(8 + header, len(data), 30)]
    for place in places:
        data[place] ^= 1 << int(rng.integers(8))
        flipped.write_bytes(data)
        with pytest.raises(ModelFileError, match=r"flipped\.patchbank: "):
            modelfile.read(flipped)
        data = bytearray(model_file.read_bytes())
    data[-5] ^= 4
    flipped.write_bytes(data)
    with pytest.raises(ModelFileError, match="has been altered since it was written"):
        modelfile.read(flipped)


def rewritten(model_file: Path, path: Path, **changes: object) -> Path:
    """The model file with other values in its document and a checksum that fits."""
    file = modelfile.read(model_file)
    document = {**file.document, **changes}
    document["sha256"] = modelfile._digest(document, file.tensors)
    save_file(file.tensors, path, metadata={"patchbank": json.dumps(document)})
    return path


def test_newer(model_file: Path, tmp_path: Path) -> None:
    newer = rewritten(model_file, tmp_path / "newer.patchbank", format_version=99, library_version="9.0")
    with pytest.raises(ModelFileError, match=r"written by a newer patchbank \(9\.0, format 99"):
        patchbank.load(newer)


def test_unknown_method_and_option(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="'magic' is not one of patchcore"):
        patchbank.load(rewritten(model_file, tmp_path / "a.patchbank", method="magic"))
    options = modelfile.read(model_file).document["options"] | {"colour": 1}
    with pytest.raises(ModelFileError, match="colour"):
        patchbank.load(rewritten(model_file, tmp_path / "b.patchbank", options=options))


def test_foreign_files(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.patchbank"
    save_file({"a": torch.zeros(3)}, foreign)
    with pytest.raises(ModelFileError, match="not a patchbank model"):
        patchbank.load(foreign)
    for content, words in ((b"hello, this is text", "is not a patchbank model"), (b"", "is empty")):
        foreign.write_bytes(content)
        with pytest.raises(ModelFileError, match=words):
            patchbank.load(foreign)
    with pytest.raises(ModelFileError, match="no such model file"):
        patchbank.load(tmp_path / "missing.patchbank")


def test_other_weights_are_refused(model_file: Path) -> None:
    with pytest.raises(WeightsError, match="was fitted with other weights"):
        patchbank.load(model_file, weights="random")


def test_random_weights_are_remembered(parts: Path, tmp_path: Path) -> None:
    model = small_model(weights="random", seed=3).fit(parts / "train" / "good")
    model.save(tmp_path / "random.patchbank")
    assert modelfile.read(tmp_path / "random.patchbank").document["training"]["weights"] == "random (seed 3)"
    again = patchbank.load(tmp_path / "random.patchbank")
    assert again.predict(bad_image(0)).score == model.predict(bad_image(0)).score


def test_a_failed_write_leaves_nothing(fitted: PatchCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        Path(args[1]).write_bytes(b"half")  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(modelfile, "save_file", broken)
    with pytest.raises(OptionError, match=r"m\.patchbank: cannot be written \(No space left on device\)"):
        fitted.save(tmp_path / "m.patchbank")
    assert list(tmp_path.iterdir()) == []


def test_unfitted(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="not been fitted"):
        PatchCore().save(tmp_path / "m.patchbank")
