"""Every layout: small trees written here, their odd cases and errors; and the real sets, where at hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from patchbank.data.datasets import LAYOUTS, Dataset, check_tested, open_dataset, open_datasets
from patchbank.data.datasets.found import Found
from patchbank.errors import DatasetError, PatchbankWarning

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images at {DATA}")


def write(root: Path, *names: str) -> None:
    """Small images below `root`; anything that does not end like an image becomes a text file."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".bmp", ".tiff"):
            Image.new("L", (6, 4)).save(path)
        else:
            path.write_text("not an image")


def below(dataset: Dataset, path: Path | None) -> str | None:
    return path.relative_to(dataset.root).as_posix() if path is not None else None


def listing(dataset: Dataset) -> tuple[list[str | None], list[tuple[str | None, str, str | None]]]:
    train = [below(dataset, path) for path in dataset.train]
    return train, [(below(dataset, s.path), s.defect, below(dataset, s.mask)) for s in dataset.test]


class TestFolder:
    def test_takes_images_anywhere_below_in_order(self, tmp_path: Path) -> None:
        write(tmp_path, "b.PNG", "a.jpg", "deep/er/c.bmp", "notes.txt", ".hidden/d.png", ".e.png")
        dataset = open_dataset(tmp_path)
        assert dataset.layout == "folder"
        assert dataset.name == tmp_path.name
        assert listing(dataset) == (["a.jpg", "b.PNG", "deep/er/c.bmp"], [])

    def test_name_of_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, "a.png")
        monkeypatch.chdir(tmp_path)
        assert open_dataset(".").name == tmp_path.name

    @pytest.mark.parametrize("names", [(), ("notes.txt",)])
    def test_without_images(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        write(tmp_path, *names)
        with pytest.raises(DatasetError, match="holds no images"):
            open_dataset(tmp_path)

    def test_missing_path_and_file(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="does not exist"):
            open_dataset(tmp_path / "nowhere")
        write(tmp_path, "a.png")
        with pytest.raises(DatasetError, match="is a file"):
            open_dataset(tmp_path / "a.png")

    def test_unknown_layout_names_the_valid_ones(self, tmp_path: Path) -> None:
        write(tmp_path, "a.png")
        with pytest.raises(DatasetError, match="'coco'.*auto, " + ", ".join(LAYOUTS)):
            open_dataset(tmp_path, layout="coco")

    @pytest.mark.parametrize("names", [("test/good/0.png", "test/bent/0.png"), ("good/0.png", "bent/0.png")])
    def test_is_not_guessed_where_defects_may_lie(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        write(tmp_path, *names)
        with pytest.raises(DatasetError, match="no train/good folder"):
            open_dataset(tmp_path)
        assert len(open_dataset(tmp_path, layout="folder").train) == 2

    def test_a_benchmark_is_not_told_to_take_defects_as_good(self, tmp_path: Path) -> None:
        write(tmp_path, "good/0.png", "bent/0.png")
        with pytest.raises(DatasetError, match=r"DATASET/train/good, DATASET/test/good") as refused:
            open_datasets(tmp_path, needs="both")
        assert "layout folder" not in str(refused.value)


class TestTestSets:
    """Folders that are only tested on."""

    @pytest.mark.parametrize("layout", ["auto", "mvtec"])
    def test_good_beside_defects(self, tmp_path: Path, layout: str) -> None:
        write(tmp_path, "good/0.png", "dent/0.png", "scratch/0.png", "scratch/1.png")
        write(tmp_path, "ground_truth/scratch/0_mask.png")
        dataset = open_dataset(tmp_path, layout=layout, needs="test")
        assert (dataset.layout, dataset.train) == ("mvtec", ())
        assert listing(dataset)[1] == [
            ("dent/0.png", "dent", None),
            ("good/0.png", "good", None),
            ("scratch/0.png", "scratch", "ground_truth/scratch/0_mask.png"),
            ("scratch/1.png", "scratch", None),
        ]

    def test_folders_of_labels_are_masks_and_no_defects(self, tmp_path: Path) -> None:
        write(tmp_path, "ok/0.png", "dent/0.png", "label/dent/0.png")
        dataset = open_dataset(tmp_path, needs="test")
        assert listing(dataset)[1] == [("dent/0.png", "dent", "label/dent/0.png"), ("ok/0.png", "good", None)]

    @pytest.mark.parametrize("root", ["d", "d/test"])
    def test_a_category_without_training_images(self, tmp_path: Path, root: str) -> None:
        write(tmp_path, "d/test/good/0.png", "d/test/dent/0.png", "d/ground_truth/dent/0_mask.png")
        dataset = open_dataset(tmp_path / root, needs="test")
        assert [(s.defect, s.mask and s.mask.name) for s in dataset.test] == [("dent", "0_mask.png"), ("good", None)]

    def test_the_test_folder_of_3d(self, tmp_path: Path) -> None:
        write(tmp_path, "good/rgb/0.png", "cut/rgb/0.png", "cut/xyz/0.tiff", "cut/gt/0.png")
        dataset = open_dataset(tmp_path, needs="test")
        assert dataset.layout == "mvtec3d"
        assert listing(dataset)[1] == [("cut/rgb/0.png", "cut", "cut/gt/0.png"), ("good/rgb/0.png", "good", None)]

    @pytest.mark.parametrize("names", [("0.png",), ("good/0.png",), ("scratch/0.png", "dent/0.png")])
    def test_without_good_or_without_defects(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        write(tmp_path, *names)
        with pytest.raises(DatasetError, match=r"DATASET/test/good and DATASET/test/<defect>, or one with `good`"):
            check_tested(open_dataset(tmp_path, needs="test"))

    def test_defects_alone_by_their_name(self, tmp_path: Path) -> None:
        write(tmp_path, "defect/0.png", "a/1.png")
        with pytest.raises(DatasetError, match=r"no folders of test images, and holds defective parts.*`good` beside"):
            open_dataset(tmp_path, needs="test")


class TestMvtec:
    def test_masks_with_and_without_suffix(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/1.png", "train/good/0.PNG", "train/good/readme.txt")
        write(tmp_path, "test/good/0.png", "test/bent/0.JPG", "test/bent/1.png", "test/bent/2.png")
        write(tmp_path, "ground_truth/bent/0_mask.png", "ground_truth/bent/1.PNG")
        (tmp_path / "test" / "empty").mkdir()
        dataset = open_dataset(tmp_path)
        assert (dataset.layout, dataset.mask_above) == ("mvtec", 0)
        assert listing(dataset) == (
            ["train/good/0.PNG", "train/good/1.png"],
            [
                ("test/bent/0.JPG", "bent", "ground_truth/bent/0_mask.png"),
                ("test/bent/1.png", "bent", "ground_truth/bent/1.PNG"),
                ("test/bent/2.png", "bent", None),
                ("test/good/0.png", "good", None),
            ],
        )

    def test_an_image_whose_own_name_ends_in_mask(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "test/bent/0.png", "test/bent/0_mask.png")
        write(tmp_path, "ground_truth/bent/0_mask.png", "ground_truth/bent/0_mask_mask.png")
        masks = [sample.mask.name for sample in open_dataset(tmp_path).test if sample.mask]
        assert masks == ["0_mask.png", "0_mask_mask.png"]

    def test_btad_names(self, tmp_path: Path) -> None:
        write(tmp_path, "train/ok/0.bmp", "test/ok/0.bmp", "test/ko/0.bmp", "ground_truth/ko/0.png")
        assert listing(open_dataset(tmp_path)) == (
            ["train/ok/0.bmp"],
            [("test/ko/0.bmp", "ko", "ground_truth/ko/0.png"), ("test/ok/0.bmp", "good", None)],
        )

    def test_loco_masks_are_folders(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "validation/good/0.png", "test/logical/0.png")
        write(tmp_path, "ground_truth/logical/0/000.png", "ground_truth/logical/0/001.png")
        assert listing(open_dataset(tmp_path))[1] == [("test/logical/0.png", "logical", "ground_truth/logical/0")]

    def test_ad2_public_test(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "test_public/good/0.png", "test_public/bad/0.png")
        write(tmp_path, "test_public/ground_truth/bad/0_mask.png")
        assert listing(open_dataset(tmp_path))[1] == [
            ("test_public/bad/0.png", "bad", "test_public/ground_truth/bad/0_mask.png"),
            ("test_public/good/0.png", "good", None),
        ]

    def test_3d_takes_the_colour_images_only(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/rgb/0.png", "train/good/xyz/0.tiff")
        write(tmp_path, "test/cut/rgb/0.png", "test/cut/xyz/0.tiff", "test/cut/gt/0.png", "test/good/rgb/0.png")
        dataset = open_dataset(tmp_path)
        assert dataset.layout == "mvtec3d"
        assert listing(dataset) == (
            ["train/good/rgb/0.png"],
            [("test/cut/rgb/0.png", "cut", "test/cut/gt/0.png"), ("test/good/rgb/0.png", "good", None)],
        )

    def test_without_test_images(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png")
        assert open_dataset(tmp_path).test == ()

    @pytest.mark.parametrize(
        ("layout", "names", "message"),
        [
            ("mvtec", ("0.png",), "no train/good folder, which the mvtec layouts need"),
            ("mvtec3d", ("train/good/0.png",), "no train/good/rgb folder"),
            ("mvtec", ("train/good/notes.txt",), "holds no images"),
        ],
    )
    def test_what_does_not_match(self, tmp_path: Path, layout: str, names: tuple[str, ...], message: str) -> None:
        write(tmp_path, *names)
        with pytest.raises(DatasetError, match=message):
            open_dataset(tmp_path, layout=layout)


def passed_over(found: Found) -> dict[str, int]:
    return {group["reason"]: group["count"] for group in found.to_list()}


class TestNamesOfOtherTools:
    @pytest.mark.parametrize(
        ("good", "bad"),
        [("normal", "anomaly"), ("Nominal", "Defect"), ("pass", "fail"), ("i.O.", "n.i.O."), ("ok_front", "def_front")],
    )
    def test_good_and_bad_in_train_and_test(self, tmp_path: Path, good: str, bad: str) -> None:
        write(tmp_path, f"Train/{good}/0.png", f"Train/{bad}/1.png", f"TEST/{good}/2.png", f"TEST/{bad}/3.png")
        with pytest.warns(PatchbankWarning, match=r"passed over for training: 1 defective training image \(.*1\.png\)"):
            dataset = open_dataset(tmp_path)
        assert dataset.layout == "mvtec"
        train, test = listing(dataset)
        assert train == [f"Train/{good}/0.png"]
        assert set(test) == {(f"TEST/{bad}/3.png", bad, None), (f"TEST/{good}/2.png", "good", None)}
        assert passed_over(dataset.train_found) == {"defective training images": 1}

    def test_a_training_folder_without_sub_folders(self, tmp_path: Path) -> None:
        write(tmp_path, "train/0.png", "train/cam1/1.png", "test/ok/2.png", "test/crack/3.png")
        assert listing(open_dataset(tmp_path))[0] == ["train/0.png", "train/cam1/1.png"]

    @pytest.mark.parametrize("name", ["scratch", "NG", "labels", "Label", "masks"])
    def test_a_training_folder_with_anything_else_in_it_is_not_all_good(self, tmp_path: Path, name: str) -> None:
        write(tmp_path, "train/0.png", f"train/{name}/0.png", "test/ok/2.png")
        with pytest.raises(DatasetError, match="no train/good folder"):
            open_dataset(tmp_path)

    @pytest.mark.parametrize(
        "names",
        [
            ("normal/0.png", "abnormal/1.png", "mask/1.png"),
            ("OK/0.png", "NG/1.png"),
            ("a/b/cat/train/good/0.png", "a/b/cat/test/cut/1.png", "a/b/cat/ground_truth/cut/1.png"),
            ("Class1/Train/0.png", "Class1/Train/Label/0_label.png", "Class1/Test/1.png"),
            ("0.png", "below/rejected/1.png"),
            ("0.png", "0_mask.png"),
        ],
    )
    def test_a_folder_that_holds_more_than_good_parts_is_refused(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        write(tmp_path, *names)
        with pytest.raises(DatasetError, match=r"no train/good folder.*and holds .*or give --layout folder"):
            open_dataset(tmp_path)
        assert len(open_dataset(tmp_path, layout="folder").train) == len(names)

    def test_what_is_in_no_split_is_counted(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "train/1.png", "test/good/2.png", "test/3.png", "test/bent/4.png")
        write(tmp_path, "validation/good/5.png", "test_private/6.png", "7.png", "readme.txt", "train/good/a.txt")
        with pytest.warns(PatchbankWarning, match="passed over for training"):
            dataset = open_dataset(tmp_path)
        assert passed_over(dataset.train_found) == {
            "files that are no images": 1,
            "training images that no folder calls good": 1,
            "images in folders that are not used": 3,
        }
        assert passed_over(dataset.test_found) == {
            "test images in no folder of their kind": 1,
            "defective images without a mask": 1,
        }

    def test_what_cannot_be_trained_on_is_told(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "train/good/1.heic", "test/good/2.png", "test/good/3.heic")
        told: list[str] = []
        with pytest.warns(PatchbankWarning, match="1 image in a format that is not read"):
            dataset = open_dataset(tmp_path, on_error=lambda name, error: told.append(Path(name).name))
        assert told == ["1.heic"]
        assert [failed.path.name for failed in dataset.test_found.failed] == ["3.heic"]


class TestMaskNames:
    @pytest.mark.parametrize(
        "mask",
        [
            "Ground_Truth/Bent/000_mask.png", "GROUND_TRUTH/BENT/000_MASK.PNG", "masks/bent/000.png",
            "gt/bent/000_gt.png",
            "mask/000.png", "ground_truth/bent/mask_000.png", "ground_truth/bent/000-mask.png", "labels/bent/000.png",
            "ground_truth/bent/000.jpg.png", "ground_truth/bent/000_label.png", "ground_truth/000_mask.png",
            "test/bent/masks/000.png", "test/Masks/bent/000.png", "test/bent/000_mask.png",
        ],
    )  # fmt: skip
    def test_found_in_any_case_and_place(self, tmp_path: Path, mask: str) -> None:
        write(tmp_path, "train/good/0.png", "test/bent/000.jpg", mask)
        dataset = open_dataset(tmp_path)
        assert listing(dataset)[1] == [("test/bent/000.jpg", "bent", mask)]
        assert passed_over(dataset.test_found) == {}

    def test_masks_and_images_without_partner_are_counted(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "test/bent/000.png", "test/bent/001.png", "test/good/2.png")
        write(tmp_path, "ground_truth/bent/000_mask.png", "ground_truth/bent/7.png", "ground_truth/bent/8.png")
        found = open_dataset(tmp_path).test_found
        assert passed_over(found) == {"masks that belong to no image": 2, "defective images without a mask": 1}
        assert "7.png" in str(found.sentence(tmp_path, "testing"))

    def test_one_flat_folder_of_masks_is_not_guessed_where_names_repeat(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "test/bent/000.png", "test/cut/000.png", "test/cut/001.png")
        write(tmp_path, "masks/000.png", "masks/001.png")
        assert [below_mask for *_, below_mask in listing(open_dataset(tmp_path))[1]] == [None, None, "masks/001.png"]

    def test_other_names_are_remarked(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "test/bent/000.png", "ground_truth/bent/000_gt.png")
        (remark,) = open_dataset(tmp_path).test_found.remarks
        assert "1 masks are found by names that differ from IMAGE_mask" in remark

    def test_good_images_may_have_masks(self, tmp_path: Path) -> None:
        write(tmp_path, "train/good/0.png", "test/ok/000.png", "ground_truth/OK/000_mask.png")
        dataset = open_dataset(tmp_path)
        assert listing(dataset)[1] == [("test/ok/000.png", "good", "ground_truth/OK/000_mask.png")]
        assert passed_over(dataset.test_found) == {}

    def test_masks_of_mtd(self, tiles: Path) -> None:
        write(tiles, "MT_Crack/Imgs/lost.png")
        dataset = open_dataset(tiles)
        found = {group["reason"]: Path(group["example"]).name for group in dataset.test_found.to_list()}
        assert found["masks that belong to no image"] == "lost.png"
        assert found["defective images without a mask"] == "c.jpg"


class TestCategories:
    def test_one_dataset_each(self, tmp_path: Path) -> None:
        write(tmp_path, "nut/train/good/0.png", "bolt/train/good/0.png", "papers/figure.png", "license.txt")
        with pytest.warns(PatchbankWarning, match=r"1 folder of images that is no category \(.*papers\)"):
            datasets = open_datasets(tmp_path)
        assert [(dataset.name, dataset.layout) for dataset in datasets] == [
            ("bolt", "mvtec"),
            ("nut", "mvtec"),
        ]

    def test_of_several_layouts(self, tmp_path: Path) -> None:
        write(tmp_path, "nut/train/good/0.png", "tiles/MT_Free/Imgs/0.jpg", "tiles/MT_Free/Imgs/1.jpg")
        assert [dataset.name for dataset in open_datasets(tmp_path)] == ["nut", "tiles"]
        assert [dataset.name for dataset in open_datasets(tmp_path, layout="mvtec")] == ["nut"]

    def test_where_one_is_needed(self, tmp_path: Path) -> None:
        write(tmp_path, *(f"{name}/train/good/0.png" for name in "abcd"))
        with pytest.raises(DatasetError, match=r"holds 4 categories \(a, b, c, …\)"):
            open_dataset(tmp_path)

    def test_half_a_category_is_not_dropped_in_silence(self, tmp_path: Path) -> None:
        write(tmp_path, "nut/train/good/0.png", "bolt/test/bent/0.png")
        with pytest.raises(DatasetError, match="bolt has no train/good folder"):
            open_datasets(tmp_path)

    def test_any_other_root_gives_one(self, tmp_path: Path) -> None:
        write(tmp_path, "a/0.png", "b/0.png")
        assert [len(dataset.train) for dataset in open_datasets(tmp_path)] == [2]
        write(tmp_path, "train/good/0.png")
        assert [dataset.layout for dataset in open_datasets(tmp_path)] == ["mvtec"]
        assert [dataset.layout for dataset in open_datasets(tmp_path, layout="folder")] == ["folder"]


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    root = tmp_path / "tiles"
    for i in range(10):
        write(root, f"MT_Free/Imgs/{i}.jpg", f"MT_Free/Imgs/{i}.png")
    write(root, "MT_Crack/Imgs/a.jpg", "MT_Crack/Imgs/a.png", "MT_Break/Imgs/b.JPG", "MT_Break/Imgs/b.PNG")
    write(root, "MT_Fray/Imgs/c.jpg", "MT_Uneven/Imgs/notes.txt")
    return root


class TestMtd:
    def test_split_by_seed(self, tiles: Path) -> None:
        dataset = open_dataset(tiles)
        assert (dataset.layout, dataset.mask_above) == ("mtd", 127)
        assert len(dataset.train) == 8
        assert all(path.suffix == ".jpg" for path in dataset.train)
        assert [(s.path.name, s.defect, s.mask and s.mask.name) for s in dataset.test if s.defect != "good"] == [
            ("b.JPG", "break", "b.PNG"),
            ("a.jpg", "crack", "a.png"),
            ("c.jpg", "fray", None),
        ]
        good = [sample.path for sample in dataset.test if sample.defect == "good"]
        assert sorted([*good, *dataset.train]) == sorted((tiles / "MT_Free" / "Imgs").glob("*.jpg"))
        assert open_dataset(tiles, seed=0) == dataset
        assert open_dataset(tiles, seed=1).train != dataset.train

    def test_split_file(self, tiles: Path) -> None:
        split = tiles.parent / "split.json"
        lists = {
            "train": [f"MT_Free/Imgs/{i}.jpg" for i in range(6)],
            "train3": [f"MT_Free/Imgs/{i}.jpg" for i in range(3)],
            "test_good": ["MT_Free/Imgs/9.jpg"],
            "test_defect": {"Crack": ["MT_Crack/Imgs/a.jpg"]},
        }
        split.write_text(json.dumps(lists))
        assert len(open_dataset(tiles, split=split).train) == 6
        train, test = listing(open_dataset(tiles, split=split, train_list="train3"))
        assert train == lists["train3"]
        assert test == [
            ("MT_Crack/Imgs/a.jpg", "crack", "MT_Crack/Imgs/a.png"),
            ("MT_Free/Imgs/9.jpg", "good", None),
        ]
        with pytest.raises(DatasetError, match=r"no list of paths called 'train50'.*test_good, train, train3"):
            open_dataset(tiles, split=split, train_list="train50")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "cannot be read as a JSON file"),
            ("[]", "must be a JSON object"),
            (
                '{"train": ["x.jpg", "y.jpg"], "test_good": ["MT_Free/Imgs/1.jpg"]}',
                "lists 2 files.*first is x.jpg",
            ),
            (
                '{"train": ["MT_Free/Imgs/1.jpg"], "test_good": ["MT_Free/Imgs/1.jpg"]}',
                "both for training and",
            ),
            ('{"train": ["MT_Free/Imgs/1.jpg"], "test_good": [1]}', "no list of paths called 'test_good'"),
            (
                '{"train": ["MT_Free/Imgs/1.jpg"], "test_good": ["MT_Free/Imgs/2.jpg"], "test_defect": []}',
                "test_defect must map",
            ),
        ],
    )
    def test_bad_split_files(self, tiles: Path, text: str, message: str) -> None:
        split = tiles.parent / "split.json"
        split.write_text(text)
        with pytest.raises(DatasetError, match=message):
            open_dataset(tiles, split=split)

    def test_split_of_another_layout(self, tmp_path: Path) -> None:
        write(tmp_path, "a.png")
        with pytest.raises(DatasetError, match="takes no split file"):
            open_dataset(tmp_path, split=tmp_path / "split.json")
        with pytest.raises(DatasetError, match="'train50' is a list of a split file"):
            open_dataset(tmp_path, train_list="train50")

    def test_what_does_not_match(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="no MT_Free folder"):
            open_dataset(tmp_path, layout="mtd")
        write(tmp_path, "MT_Free/Imgs/0.jpg")
        with pytest.raises(DatasetError, match="holds 1 images"):
            open_dataset(tmp_path)


TABLE = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0.JPG,
candle,test,normal,candle/Data/Images/Normal/1.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png
capsule,train,normal,capsule/Data/Images/Normal/0.JPG,
"""


class TestVisa:
    @pytest.fixture
    def visa(self, tmp_path: Path) -> Path:
        write(tmp_path, *(f"candle/Data/Images/{name}.JPG" for name in ("Normal/0", "Normal/1", "Anomaly/0")))
        write(tmp_path, "candle/Data/Masks/Anomaly/0.png", "capsule/Data/Images/Normal/0.JPG")
        (tmp_path / "split_csv").mkdir()
        (tmp_path / "split_csv" / "1cls.csv").write_text(TABLE)
        return tmp_path

    def test_category(self, visa: Path) -> None:
        dataset = open_dataset(visa / "candle")
        assert (dataset.name, dataset.layout) == ("candle", "visa")
        assert listing(dataset) == (
            ["Data/Images/Normal/0.JPG"],
            [
                ("Data/Images/Anomaly/0.JPG", "anomaly", "Data/Masks/Anomaly/0.png"),
                ("Data/Images/Normal/1.JPG", "good", None),
            ],
        )

    def test_all(self, visa: Path) -> None:
        assert [dataset.name for dataset in open_datasets(visa)] == ["candle", "capsule"]

    def test_images_that_the_table_does_not_list_are_counted(self, visa: Path) -> None:
        write(visa, "candle/Data/Images/Normal/7.JPG")
        assert passed_over(open_dataset(visa / "candle").train_found) == {"images that the table does not list": 1}

    def test_bad_tables(self, visa: Path) -> None:
        (visa / "candle/Data/Images/Normal/1.JPG").unlink()
        with pytest.raises(DatasetError, match=r"lists 1 files that are not there, the first is .*1\.JPG"):
            open_dataset(visa / "candle")
        (visa / "split_csv" / "1cls.csv").write_text("object,split,label\n")
        with pytest.raises(DatasetError, match="no column 'image'"):
            open_dataset(visa / "candle")
        (visa / "split_csv" / "1cls.csv").unlink()
        with pytest.raises(DatasetError, match="the visa layout needs this table"):
            open_dataset(visa / "candle", layout="visa")


@needs_data
@pytest.mark.data
class TestReal:
    @pytest.mark.parametrize(
        ("name", "layout", "train", "test"),
        [
            ("tire", "mvtec", 210, {"good": 25, "contamination": 28, "cut": 27, "hole": 27, "combined": 5}),
            ("hazelnut_toy", "mvtec", 28, {"good": 6, "colour": 17}),
            (
                "mtd",
                "mtd",
                761,
                {"good": 191, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103},
            ),
        ],
    )
    def test_counts(self, name: str, layout: str, train: int, test: dict[str, int]) -> None:
        dataset = open_dataset(DATA / name)
        assert (dataset.name, dataset.layout, len(dataset.train)) == (name, layout, train)
        assert Counter(sample.defect for sample in dataset.test) == test
        assert all((sample.mask is None) == (sample.defect == "good") for sample in dataset.test)

    @pytest.mark.parametrize(("train_list", "count"), [("train", 761), ("train200", 200), ("train50", 50)])
    def test_split_file(self, train_list: str, count: int) -> None:
        dataset = open_dataset(DATA / "mtd", split=DATA / "mtd_split.json", train_list=train_list)
        assert (len(dataset.train), len(dataset.test)) == (count, 583)
