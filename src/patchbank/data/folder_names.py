"""What the name of a folder says about the images in it: good, defective, masks, or a split of a dataset.

Other tools write `normal`/`abnormal`, `OK`/`NG`, `i.O.`/`n.i.O.`, `pass`/`fail` and more, in any case and with words
around them (`good_parts`, `01_NG`). Every place that has to tell good from bad by a name asks here.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum


class Kind(Enum):
    """What a folder holds."""

    GOOD = "good parts"
    BAD = "defective parts"
    MASK = "masks"
    TRAIN = "training images"
    TEST = "test images"


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


_GOOD = words(
    "good goods ok okay oks normal normals nominal pass passes passed passing io gut gute gutes intact accept accepted "
    "acceptable conform conforming flawless faultless undamaged healthy bon bons conforme"
)
_BAD = words(
    "bad bads ng ngs nok noks ko nio abnormal abnormals abnormality abnormalities anomaly anomalies anomalous anomal "
    "fail fails failed failing failure failures defect defects defective defectives def reject rejects rejected "
    "rejection rejections scrap scrapped faulty fault faults broken damage damages damaged flaw flaws flawed "
    "nonconforming nonconformity unhealthy schlecht schlechte ausschuss defekt defekte defekten fehler fehlerhaft "
    "mauvais defaut defauts defectueux"
)
_NOT = words("no non not none without zero ohne kein keine sans")
_FREE = frozenset(("free", "frei", "none"))
_NEUTRAL = words(
    "part parts piece pieces product products item items sample samples unit units image images img imgs picture "
    "pictures pic pics photo photos frame frames data set dataset class type only all new old train training test "
    "testing front back side top bottom left right view cam camera line station lot batch day shift night teil teile "
    "teilen bild bilder nur and the of a b c d x s"
)
# languages that write no blanks between words: the negated word contains the plain one
_BAD_INSIDE = ("不合格", "不良", "异常", "異常", "次品", "缺陷", "欠陥", "불량", "비정상", "결함")
_GOOD_INSIDE = ("合格", "良品", "正常", "정상", "양품")
_MASK = words("groundtruth mask masks gt maskimages maskimage defectmask defectmasks")
_TRAIN = frozenset(("train", "training"))
_TEST = frozenset(("test", "testing", "testpublic", "testprivate", "testprivatemixed"))
ANNOTATIONS = words("label labels annotation annotations")


def kind_of(name: str, *, strictly: bool = False) -> Kind | None:
    """What a folder of this name holds, None where the name does not say.

    strictly: a name counts as good only where nothing else is said in it: `good_parts` does, `normal_wear` does not.
    """
    joined = joined_name(name)
    if joined in _MASK:
        return Kind.MASK
    if joined in _TRAIN:
        return Kind.TRAIN
    if joined in _TEST:
        return Kind.TEST
    if any(word in joined for word in _BAD_INSIDE):
        return Kind.BAD
    if any(word in joined for word in _GOOD_INSIDE):
        return Kind.GOOD
    good, bad, other = _count(_words(name))
    if bad:
        return Kind.BAD
    return Kind.GOOD if good and not (strictly and other) else None


def is_good(name: str) -> bool:
    """Whether a folder or label of this name means good parts, and nothing else."""
    return kind_of(name, strictly=True) is Kind.GOOD


def is_neutral(name: str) -> bool:
    """Whether a name such as `images`, `cam1` or `lot_07` says nothing about the parts."""
    return kind_of(name) is None and joined_name(name) not in ANNOTATIONS and not _count(_words(name))[2]


def joined_name(name: str) -> str:
    """The letters of a name in lower case, without what stands between them: `Ground-Truth` → `groundtruth`."""
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalpha())


def _words(name: str) -> list[str]:
    text = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    text = re.sub(r"(?<![A-Za-z])[Nn]o[\W_]*\d+", " ", text)  # a number, as in No3_NG
    text = re.sub(r"[\W_\d]+", " ", re.sub(r"(?<=[a-z]{2})(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", " ", text))
    text = f" {text.casefold()} "
    text = re.sub(r" n ?i ?o ", " nio ", text)
    return re.sub(r" i ?o ", " io ", text).split()


def _count(words: list[str]) -> tuple[int, int, int]:
    """How many words say good, how many say bad, and how many say something else. A negation turns the word after it
    round; `free` turns the one beside it round."""
    good = bad = other = 0
    negated = False
    for i, word in enumerate(words):
        around = {*words[max(i - 1, 0) : i], *words[i + 1 : i + 2]}
        if word in _NOT or (word == "n" and set(words[i + 1 : i + 2]) & _GOOD):
            negated = True
            continue
        if word in _BAD or (word.startswith("non") and word[3:] in _GOOD):
            turned = negated or bool(around & _FREE)
            good, bad = good + turned, bad + (not turned)
        elif word in _GOOD or _is_free(word):
            good, bad = good + (not negated), bad + negated
        elif word not in _NEUTRAL | _FREE:
            other += not negated
            continue  # a negation reaches over a word such as in `no_visible_defects`
        negated = False
    return good, bad, other


def _is_free(word: str) -> bool:
    """`defectfree`, `nondefective`, `fehlerfrei`."""
    return any(word.endswith(end) and word[: -len(end)] in _BAD for end in _FREE) or any(
        word.startswith(start) and word[len(start) :] in _BAD for start in ("non", "no", "un")
    )
