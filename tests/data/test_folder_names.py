"""What names of folders say, as other tools write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchbank.data.folder_content import check_content, find_mixed
from patchbank.data.folder_names import Kind, is_good, is_neutral, kind_of
from patchbank.errors import DatasetError

GOOD = (
    "good GOOD goods OK ok okay normal Nominal pass passed PASS io iO i.O. IO i_o good_parts ok_images GoodParts "
    "OKParts iO-Teile 01_good good(1) OK2 non-defective NonDefective no_defect no_defects defect-free defectfree "
    "DefectFree anomaly_free without_defects fehlerfrei ok_front 良品 正常 no_visible_defect defects_none"
)
BAD = (
    "bad NG ng nok KO nio niO n.i.O. n_i_o not_ok NotOK no_good noGood not_good n.ok abnormal anomaly Anomalies "
    "anomalous fail failed defect defective Defects reject rejected scrap faulty bad_parts def_front NG_scratch 01_NG "
    "No3_NG NIO-Teile abnormal_data pass_fail not_normal 不良品 不合格"
)
NEITHER = (
    "camera1 lot_07 labels cut crack 0 1 ground test_bench normalized koala passport goodyear scrapyard ngc kodak "
    "images"
)


@pytest.mark.parametrize("name", GOOD.split())
def test_good(name: str) -> None:
    assert kind_of(name) is Kind.GOOD
    assert is_good(name)


@pytest.mark.parametrize("name", BAD.split())
def test_bad(name: str) -> None:
    assert kind_of(name) is Kind.BAD
    assert not is_good(name)


@pytest.mark.parametrize("name", NEITHER.split())
def test_neither(name: str) -> None:
    assert kind_of(name) is None


def test_splits_and_masks() -> None:
    for name in ("ground_truth", "Ground_Truth", "GROUND-TRUTH", "groundtruth", "masks", "MASK", "gt", "mask_images"):
        assert kind_of(name) is Kind.MASK
    assert [kind_of(n) for n in ("Train", "TRAINING")] == [Kind.TRAIN] * 2
    assert [kind_of(n) for n in ("test", "Testing", "test_public", "test_private")] == [Kind.TEST] * 4


def test_a_good_name_with_another_word_is_not_plainly_good() -> None:
    assert kind_of("normal_wear") is Kind.GOOD
    assert not is_good("normal_wear")


def test_neutral_names_say_nothing_of_the_parts() -> None:
    assert all(map(is_neutral, ("images", "cam1", "lot_07", "Bilder", "2024-05-01")))
    assert not any(map(is_neutral, ("scratch", "good", "NG", "labels", "masks", "test")))


def files(*names: str) -> list[Path]:
    return [Path("root", name) for name in names]


@pytest.mark.parametrize(
    ("names", "where"),
    [
        (("ok/0.png", "NG/1.png"), "root/NG"),
        (("a/b/c/train/good/0.png", "a/b/c/test/cut/0.png"), "root/a/b/c/test"),
        (("0.png", "cam1/defects/1.png"), "root/cam1/defects"),
        (("0.png", "Masks/0.png"), "root/Masks"),
        (("0.png", "0_mask.png"), "root/0_mask.png"),
        (("kos01/Part0.jpg", "kos01/Part0_label.bmp"), "root/kos01/Part0_label.bmp"),
        (("0.png", "Label/0_label.png"), "root/Label/0_label.png"),
        (("images/0.png", "labels/0.png"), "root/labels/0.png"),
        (("normal/0.png", "scratch/1.png"), "root/scratch"),
    ],
)
def test_what_is_not_all_good(names: tuple[str, ...], where: str) -> None:
    found = find_mixed(Path("root"), files(*names), "good")
    assert found is not None
    assert found.example == Path(where)


@pytest.mark.parametrize(
    "names",
    [
        ("0.png", "camera1/1.png", "lot_07/2.png"),
        ("defect-free/0.png", "no_defect/1.png"),
        ("train/good/0.png",),
        ("ok/0.png", "good/1.png", "extra_good/2.png"),
        ("0.png", "0_label.png"),
        ("labels/0.png", "caps/1.png"),
    ],
)
def test_what_is_all_good(names: tuple[str, ...]) -> None:
    assert find_mixed(Path("root"), files(*names), "good") is None


def test_only_folders_below_the_given_one_count() -> None:
    root = Path("datasets/test/defects/rejected")
    check_content(root, [root / "0.png", root / "cam1" / "1.png"], "good")


def test_the_folder_to_give_is_named() -> None:
    root = Path("datasets")
    found = find_mixed(
        root, [root / "m/tyre" / n for n in ("train/good/0.png", "test/good/1.png", "test/cut/2.png")], "good"
    )
    assert found is not None
    assert found.instead == root / "m/tyre/train/good"
    with pytest.raises(
        DatasetError, match=r"root: holds defective parts \(root/NG\).*such as root/OK, or a list of files"
    ):
        check_content(Path("root"), files("OK/0.png", "NG/1.png"), "good")
    with pytest.raises(
        DatasetError, match=r"root: holds good parts \(root/OK\).*defective images alone, such as root/NG"
    ):
        check_content(Path("root"), files("OK/0.png", "NG/1.png"), "defects")


def test_a_training_folder_with_masks_in_it_is_not_recommended() -> None:
    found = find_mixed(Path("root"), files("Train/0.png", "Train/Label/0_label.png", "Test/1.png"), "good")
    assert found is not None
    assert found.instead is None
