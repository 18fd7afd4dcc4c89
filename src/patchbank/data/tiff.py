"""What the tags of a TIFF say about its pixels: Pillow reads some kinds wrongly or not at all, OpenCV others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from patchbank.errors import ImageError

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PAGES = 10_000
_FORMS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
_COLOURS = {0: "white is zero", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "L*a*b*"}


def is_tiff(start: bytes) -> bool:
    """Whether a file that begins so is a TIFF or a BigTIFF."""
    return start.startswith(_STARTS)


@dataclass(frozen=True)
class TiffKind:
    """`size` is (height, width) as stored; `form` a key of `_FORMS`."""

    size: tuple[int, int]
    bits: tuple[int, ...]
    form: int
    channels: int
    in_planes: bool
    colours: int
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """As its orientation says it is to be seen."""
        height, width = self.size
        return (width, height) if self.orientation in (5, 6, 7, 8) else (height, width)

    @property
    def is_deep(self) -> bool:
        """Whether it has more, or other, values than 0..255."""
        return max(self.bits) > 8 or self.form not in (1, 4)

    @property
    def for_pillow(self) -> bool:
        """Whether Pillow reads all bits of it, and reads them right."""
        if not self.is_deep or self.colours == 5:
            return True
        bits, form = self.bits[0], self.form
        return self.channels == 1 and ((bits <= 16 and form in (1, 4)) or (bits, form) in ((16, 2), (32, 2), (32, 3)))

    @property
    def for_opencv(self) -> bool:
        """Whether OpenCV reads all bits of it, and reads them right."""
        bits = {1: (8, 16, 32), 2: (8, 16, 32), 3: (32, 64), 4: (8, 16, 32)}.get(self.form, ())
        same = len(set(self.bits)) == 1
        return same and self.bits[0] in bits and self.channels in (1, 3, 4) and not self.in_planes and self.colours <= 2

    def __str__(self) -> str:
        bits = "/".join(map(str, dict.fromkeys(self.bits)))
        channels = f"{self.channels} channels" if self.channels > 1 else "1 channel"
        planes = ", one plane after the other" if self.in_planes else ""
        colours = _COLOURS.get(self.colours, f"photometric interpretation {self.colours}")
        return f"{channels} of {bits} bits, {_FORMS.get(self.form, 'unknown')}, {colours}{planes}"


def read_kind(file: IO[bytes]) -> TiffKind:
    """Of the first page. Raises `ImageError` where the file is damaged."""
    try:
        kind = kind_of(next(_directories(file)))
    except Exception:  # Pillow's readers raise all sorts
        raise ImageError(damaged("TIFF")) from None
    if 0 in kind.size:
        raise ImageError(damaged("TIFF"))
    return kind


def kind_of(tags: Any) -> TiffKind:
    """From the tags of a page, as Pillow reads them."""

    def number(tag: int, otherwise: int) -> int:
        value = tags.get(tag, otherwise)
        return int(value[0] if isinstance(value, tuple) else value)

    bits = tags.get(258, (1,))
    return TiffKind(
        size=(number(257, 0), number(256, 0)),
        bits=tuple(bits) if isinstance(bits, tuple) else (int(bits),),
        form=number(339, 1),
        channels=number(277, 1),
        in_planes=number(284, 1) == 2 and number(277, 1) > 1,
        colours=number(262, 1),
        orientation=number(274, 1),
    )


def damaged(name: str) -> str:
    """The sentence about a file that has the signature of a format and not much more."""
    return f"begins as a {name} file, but its header is damaged or cut off"


def several(pages: int) -> str:
    """The sentence about a file of several pages."""
    return f"has {pages} pages or frames: save each as an image of its own"


def count_pages(file: IO[bytes]) -> int:
    """The first page and the further ones that are no reduced copy or mask of another."""
    pages = 0
    for number, tags in enumerate(_directories(file)):
        kind, old = tags.get(254, 0), tags.get(255, 1)
        is_copy = (isinstance(kind, int) and kind & 0b101) or old in (2, (2,))
        pages += number == 0 or not is_copy
    return max(pages, 1)


def _directories(file: IO[bytes]) -> Iterator[Any]:
    """The tags of each page; a damaged end, or one that leads back, ends the list."""
    before = file.tell()
    try:
        file.seek(0)
        header = file.read(8)
        header += file.read(8) if header[2:4] in (b"+\0", b"\0+") else b""
        at, seen = int(ImageFileDirectory_v2(header).next), set[int]()
        while at and at not in seen and len(seen) < _MOST_PAGES:
            seen.add(at)
            tags = ImageFileDirectory_v2(header)
            try:
                file.seek(at)
                tags.load(file)
            except Exception:  # Pillow's readers raise all sorts
                if len(seen) == 1:
                    raise
                return
            yield tags
            at = int(tags.next or 0)
    finally:
        file.seek(before)
