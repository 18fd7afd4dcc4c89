"""The layouts, and the public datasets that have them: where each is, under which terms, and how to lay it out.

Facts about others' datasets were looked up; where a term could not be verified, it says so.
"""

from __future__ import annotations

from dataclasses import dataclass

TREES: dict[str, str] = {
    "folder": "images anywhere below the folder, all of them good",
    "mvtec": "train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png; one such category, or a root of them",
    "mvtec3d": "train/good/rgb, test/<defect>/rgb, test/<defect>/gt; xyz beside each rgb (docs/guides/geometry.md)",
    "mtd": "MT_Free/Imgs and MT_<Defect>/Imgs, each *.jpg with its mask *.png; split by the seed, or by --split FILE",
    "visa": "<object>/Data/Images and Data/Masks, listed in split_csv/1cls.csv beside the objects",
}

_MVTEC_TERMS = "CC BY-NC-SA 4.0 (not for commercial use)"


@dataclass(frozen=True)
class PublicDataset:
    """A dataset that anyone may ask for. `tree`: some of its files, as they lie below the folder to name; `note`: what
    is to be done or known."""

    name: str
    layout: str
    source: str
    terms: str
    tree: tuple[str, ...]
    note: str


PUBLIC: tuple[PublicDataset, ...] = (
    PublicDataset(
        "MVTec AD", "mvtec", "https://www.mvtec.com/company/research/datasets/mvtec-ad", _MVTEC_TERMS,
        ("bottle/train/good/000.png", "bottle/test/good/000.png", "bottle/test/broken_large/000.png",
         "bottle/ground_truth/broken_large/000_mask.png"),
        "as unpacked",
    ),
    PublicDataset(
        "MVTec AD 2", "mvtec", "https://www.mvtec.com/research-teaching/datasets/mvtec-ad-2", _MVTEC_TERMS,
        ("can/train/good/000_regular.png", "can/test_public/good/000_regular.png",
         "can/test_public/bad/000_regular.png", "can/test_public/ground_truth/bad/000_regular_mask.png"),
        "as unpacked; test_public is tested on, the private test images have no labels and are not used",
    ),
    PublicDataset(
        "MVTec LOCO AD", "mvtec", "https://www.mvtec.com/research-teaching/datasets/mvtec-loco-ad", _MVTEC_TERMS,
        ("breakfast_box/train/good/000.png", "breakfast_box/test/good/000.png",
         "breakfast_box/test/logical_anomalies/000.png", "breakfast_box/ground_truth/logical_anomalies/000/000.png"),
        "as unpacked; the masks in an image's folder count together, each pixel alike (no saturation as in sPRO); "
        "validation is not used",
    ),
    PublicDataset(
        "MVTec 3D-AD", "mvtec3d", "https://www.mvtec.com/company/research/datasets/mvtec-3d-ad", _MVTEC_TERMS,
        ("bagel/train/good/rgb/000.png", "bagel/test/good/rgb/000.png", "bagel/test/hole/rgb/000.png",
         "bagel/test/hole/gt/000.png"),
        "as unpacked; the colour images only, validation is not used",
    ),
    PublicDataset(
        "VisA", "visa", "https://github.com/amazon-science/spot-diff", "CC BY 4.0",
        ("split_csv/1cls.csv", "candle/Data/Images/Normal/0000.JPG", "candle/Data/Images/Normal/0001.JPG",
         "candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png"),
        "as unpacked; what its prepare_data.py writes has the mvtec layout",
    ),
    PublicDataset(
        "BTAD", "mvtec", "https://avires.dimi.uniud.it/papers/btad/btad.zip", "see the archive (no licence found)",
        ("01/train/ok/0000.bmp", "01/test/ok/0000.bmp", "01/test/ko/0000.bmp", "01/ground_truth/ko/0000.png"),
        "as unpacked; ok is good, ko a defect",
    ),
    PublicDataset(
        "MPDD", "mvtec", "https://github.com/stepanje/MPDD",
        "see the page (anomalib's documentation says CC BY-NC-SA 4.0)",
        ("metal_plate/train/good/000.png", "metal_plate/test/good/000.png", "metal_plate/test/scratches/000.png",
         "metal_plate/ground_truth/scratches/000_mask.png"),
        "as unpacked",
    ),
    PublicDataset(
        "MTD", "mtd", "https://github.com/abin24/Magnetic-tile-defect-datasets.",
        "its page invites use and asks to cite the paper; no licence found",
        ("MT_Free/Imgs/exp1_num_1.jpg", "MT_Free/Imgs/exp1_num_2.jpg", "MT_Crack/Imgs/exp1_num_3.jpg",
         "MT_Crack/Imgs/exp1_num_3.png"),
        "as cloned (the address ends with a dot); 80 % of the good images train",
    ),
    PublicDataset(
        "mSTC", "mvtec", "https://svip-lab.github.io/dataset/campus_dataset.html", "see the page",
        ("train/good/01_001/0000.jpg", "test/good/01_0014/0000.jpg", "test/anomaly/01_0014/0120.jpg",
         "ground_truth/anomaly/01_0014/0120.png"),
        "the ShanghaiTech Campus videos, every fifth frame: write the frames and masks as images in these folders",
    ),
)  # fmt: skip
