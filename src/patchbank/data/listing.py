"""Which files of a folder are images, and what else lies there: nothing is passed over without a word."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from patchbank._system.remote import Entry, RemotePath, child_of, entries_of
from patchbank._system.written import written_into
from patchbank.data.folder_names import words
from patchbank.errors import ImageError

# Plain raster formats, whose decoders start no other program.
IMAGE_SUFFIXES = words(
    ".png .apng .jpg .jpeg .jpe .jfif .jif .mpo .bmp .dib .tif .tiff .webp .gif .ppm .pgm .pbm .pnm .pfm .tga .icb "
    ".vda .vst .jp2 .j2k .jpc .jpf .jpx .j2c .avif .pcx .sgi .qoi"
)
POINTS_SUFFIXES = words(".npy .npz .pcd .ply .stl")  # geometry, where a picture or nothing else lies beside it
# Photographs in formats that are not read: a folder is not wholly inspected without them.
_UNREAD_SUFFIXES = words(
    ".heic .heif .hif .raw .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .x3f .3fr .iiq .jxl "
    ".jxr .wdp .hdp .exr .hdr .eps .ps .psd .psb .dcm .dicom .xcf .fits .fit .fts .dds .pam"
)
# Endings of something else. A file with none of these endings is known by its first bytes.
_OTHER_SUFFIXES = words(
    ".txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .log .db .sqlite .html .htm .pdf .doc .docx "
    ".xls .xlsx .ppt .pptx .py .ipynb .sh .bat .ps1 .zip .tar .gz .7z .rar .pt .pth .onnx .patchbank .mp4 "
    ".avi .mov .mkv .svg .ico .lnk .url .bak .old .orig .tmp .temp .part .partial .filepart .crdownload .download "
    ".upload .lock .sha256 .md5"
)
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51", b"8BPS", b"qoif",
)  # fmt: skip
_ISO_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
_SYSTEM_FOLDERS = frozenset(
    ("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler",
     "system volume information", "__macosx", "lost+found", "network trash folder", "temporary items")
)  # fmt: skip
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))

# Why something is passed over: the words for one and for several of its kind.
Reason: TypeAlias = tuple[str, str]
_UNREAD: Reason = ("image in a format that is not read", "images in formats that are not read")
_UNOPENED: Reason = ("folder that cannot be opened", "folders that cannot be opened")
_OTHER: Reason = ("file that is no image", "files that are no images")
_POINTS: Reason = (
    "file of numbers or points that belongs to no picture", "files of numbers or points that belong to no picture",
)  # fmt: skip
_HIDDEN: Reason = ("hidden image or folder of images", "hidden images or folders of images")
_SYSTEM: Reason = ("file or folder of the system", "files or folders of the system")
_PIPE: Reason = ("pipe, socket or device", "pipes, sockets or devices")
_SEEN: Reason = ("link to a folder that is listed already", "links to folders that are listed already")
_UNNAMED: Reason = ("folder without a name", "folders without a name")
_BROKEN: Reason = ("broken link", "broken links")
_OURS: Reason = ("result that patchbank wrote", "results that patchbank wrote")
_REASONS = (_UNREAD, _UNOPENED, _OURS, _OTHER, _POINTS, _HIDDEN, _SYSTEM, _PIPE, _SEEN, _UNNAMED, _BROKEN)


@dataclass(frozen=True)
class PassedOver:
    """Files or folders that are not among the images, for one reason: how many, and the first of them."""

    reason: Reason
    count: int
    example: Path

    def __str__(self) -> str:
        return f"{self.count} {self.reason[self.count > 1]} ({'such as ' * (self.count > 1)}{self.example})"


@dataclass(frozen=True)
class Failed:
    """What should have been inspected and cannot be: an image in a format that is not read, or a folder."""

    path: Path
    reason: str

    @property
    def error(self) -> ImageError:
        return ImageError(f"{self.path}: {self.reason}")


@dataclass(frozen=True)
class Listing:
    """The images in a folder and below it, sorted by path; what fails; what else was passed over, counted; and files
    that may hold the `points` of what the images show, which count as passed over until they are `taken`."""

    root: Path
    files: tuple[Path, ...]
    failed: tuple[Failed, ...]
    passed_over: tuple[PassedOver, ...]
    points: tuple[Path, ...] = ()

    def taken(self, points: Collection[Any]) -> Listing:
        """After some of the points have found their use."""
        left = [path for path in self.points if path not in points]
        groups = {group.reason: group for group in self.passed_over if group.reason != _POINTS}
        if left:
            groups[_POINTS] = PassedOver(_POINTS, len(left), left[0])
        passed = tuple(groups[reason] for reason in _REASONS if reason in groups)
        return replace(self, passed_over=passed, points=tuple(left))

    @property
    def note(self) -> str | None:
        """One sentence about what was passed over, None where nothing was."""
        return said(self.root, len(self.files), self.passed_over)


def said(root: Path, images: int, passed_over: Iterable[PassedOver]) -> str | None:
    """One sentence about what was passed over in a folder, None where nothing was."""
    groups = ", ".join(map(str, passed_over))
    return f"{root}: passed over {groups}; {images} images are taken" if groups else None


def as_plain(passed_over: Iterable[PassedOver]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"reason": group.reason[1], "count": group.count, "example": str(group.example)} for group in passed_over]


def list_images(folder: Path) -> list[Path]:
    """All image files anywhere below `folder`, sorted by path. See `list_folder`."""
    return list(list_folder(folder).files)


def list_folder(root: Path) -> Listing:
    """What lies in a folder and below it. Each real folder is walked once: a link to one that was walked already, or
    that holds the root, is not followed. Hidden files and those of the system are no images."""
    walk = _Walk(root)
    walk.run()
    found = Listing(root, tuple(sorted(walk.files)), tuple(walk.failed), tuple(walk.passed_over()))
    return replace(found, points=tuple(sorted(walk.points))).taken(())


class _Walk:
    """One pass over a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[Path] = []
        self.failed: list[Failed] = []
        self.points: list[Path] = []
        self._groups: dict[Reason, PassedOver] = {}
        self._folders = [root]
        self._links: list[Path] = []
        self._ours: set[str] = set()  # results of an earlier run: they lie in or below the folder that lists them
        self._walked: set[object] = {key for above in Path(os.path.realpath(root)).parents if (key := _identity(above))}

    def run(self) -> None:
        # links come last, so that a folder is listed under its own path where it has one below the root
        while self._folders or self._links:
            folder = self._folders.pop() if self._folders else self._links.pop(0)
            key = _identity(folder)
            if key is not None and key in self._walked:
                self._pass(_SEEN, folder)
                continue
            self._walked.add(key)
            self._enter(folder)

    def passed_over(self) -> Iterator[PassedOver]:
        """In the order of the reasons above."""
        return (self._groups[reason] for reason in _REASONS if reason in self._groups)

    def _enter(self, folder: Path) -> None:
        try:
            found = entries_of(folder)
        except (FileNotFoundError, NotADirectoryError) as error:  # gone by now
            if folder == self.root:
                self._fail(_UNOPENED, folder, f"the folder cannot be opened ({error.strerror})")
            return
        except OSError as error:
            self._fail(_UNOPENED, folder, f"the folder cannot be opened ({error.strerror}): nothing in it is inspected")
            return
        before = len(self._folders)
        self._ours |= written_into(folder, [entry.name for entry in found])
        for entry in found:
            if not entry.name:
                self._fail(_UNNAMED, folder, "has names below it with two slashes in a row, which are not read: rename")
                continue
            path = child_of(folder, entry)
            if str(path) in self._ours:
                self._pass(_OURS, path)
            elif _is(entry, "is_dir"):
                self._take_folder(entry, path)
            else:
                self._take_file(entry, path)
        self._folders[before:] = reversed(self._folders[before:])  # a stack: the first is taken next

    def _take_folder(self, entry: Entry, path: Path) -> None:
        if is_system_folder(entry.name):
            self._pass(_SYSTEM, path)
        elif entry.name.startswith("."):
            if _holds_images(path):
                self._pass(_HIDDEN, path)
        elif entry.is_symlink():
            self._links.append(path)
        else:
            self._folders.append(path)

    def _take_file(self, entry: Entry, path: Path) -> None:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith(".") or entry.name.casefold() in _SYSTEM_FILES:
            if suffix in IMAGE_SUFFIXES:
                self._pass(_SYSTEM if entry.name.startswith("._") else _HIDDEN, path)
        elif not _is(entry, "is_file"):
            self._take_no_file(path, suffix)
        elif suffix in IMAGE_SUFFIXES:
            self.files.append(path)
        elif suffix in POINTS_SUFFIXES:
            self.points.append(path)
        elif suffix in _UNREAD_SUFFIXES:
            self._fail(_UNREAD, path, f"{suffix} images are not read: convert it to PNG or TIFF")
        elif suffix not in _OTHER_SUFFIXES and _begins_as_image(path):
            self._fail(_UNREAD, path, "is an image by its first bytes, not by its ending: rename it, such as to .png")
        else:
            self._pass(_OTHER, path)

    def _take_no_file(self, path: Path, suffix: str) -> None:
        if not os.path.exists(path):
            if suffix in IMAGE_SUFFIXES:
                self.files.append(path)  # whoever reads it says what is wrong with it
            else:
                self._pass(_BROKEN, path)
        elif suffix in IMAGE_SUFFIXES | _UNREAD_SUFFIXES:
            self._fail(_PIPE, path, "is a pipe, socket or device: only regular files are opened")
        else:
            self._pass(_PIPE, path)

    def _fail(self, group: Reason, path: Path, reason: str) -> None:
        self.failed.append(Failed(path, reason))
        self._pass(group, path)

    def _pass(self, reason: Reason, path: Path) -> None:
        before = self._groups.get(reason)
        self._groups[reason] = PassedOver(reason, before.count + 1 if before else 1, before.example if before else path)


def is_system_folder(name: str) -> bool:
    """Whether a system or a network storage keeps its own files in a folder of this name: thumbnails, deleted files."""
    return name.casefold() in _SYSTEM_FOLDERS


def _is(entry: Entry, what: str) -> bool:
    """`is_dir` or `is_file`, of what a link leads to; False where that cannot be found out."""
    try:
        return bool(getattr(entry, what)())
    except OSError:
        return False


def _identity(folder: Path) -> object:
    """What tells a real folder from others; None where it cannot be asked."""
    if isinstance(folder, RemotePath):
        return str(folder)
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(folder)


def _holds_images(folder: Path) -> bool:
    try:
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in entries_of(folder))
    except OSError:
        return False


def _begins_as_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(_SIGNATURES) or (start[4:8] == b"ftyp" and start[8:12] in _ISO_BRANDS)
