"""What a user may hand over as images, and the sources it becomes: all at once, or one by one from an iterator."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchbank._system.remote import RemotePath, forget, located, matches_of
from patchbank.data.described import CHANNELS, about_shape, described, is_table, is_tensor, shape_of
from patchbank.data.folder_content import Holds, check_content
from patchbank.data.listing import IMAGE_SUFFIXES, POINTS_SUFFIXES, Listing, PassedOver, Reason, list_folder
from patchbank.data.pairing import ALIASES, Pairing
from patchbank.errors import DatasetError, ImageError, OptionError, notify
from patchbank.sample import GEOMETRY_CHANNEL, Data, Sample

Encoded: TypeAlias = "bytes | bytearray | memoryview"
ImageLike: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | Image.Image | Encoded | Sample"
Images: TypeAlias = "ImageLike | Iterable[ImageLike]"
OnError: TypeAlias = Callable[[str, Exception], None]

_MASKS: Reason = ("mask beside the pictures of parts", "masks beside the pictures of parts")
_KNOWN = (
    "an image must be a path, a folder, a numpy array, a PIL image, the bytes of an image file, or a file opened in "
    "binary mode"
)


def gather(images: Images, on_error: OnError | None = None, *, of: Holds | None = None) -> list[Sample]:
    """Paths, folders (recursive, sorted), arrays, PIL images and bytes, alone or in a sequence, as one list of sources.

    An N×H×W×C array is N images; a mapping such as {"rgb": path, "xyz": path} is one sample with several channels.
    What lies in a folder beside its images is said in a `PatchbankWarning`.

    Args:
        images: see above; an iterator is walked through to its end.
        on_error: hears of paths that do not exist and of what cannot be inspected in a folder, while the others go on.
            Without it a missing path raises, and the rest is part of the warning.
        of: what the images are going to be learned as; a folder with sub-folders of another kind is refused then.

    Raises:
        DatasetError: a path does not exist, a folder holds no images or not only images `of` one kind, or nothing was
            given at all.
        OptionError: an item is none of these.
    """
    return list(_Gathering(on_error, of).all_of(images))


def stream(images: Images, on_error: OnError) -> Iterable[Sample]:
    """As `gather`, one by one for an iterator: the next item is taken when the source before it is done with.

    Other things become a list. `on_error` hears of every path that gives nothing, also where all of several do, and of
    None in an iterator: a frame that was lost.
    """
    lazily = is_lazy(images)
    sources = _Gathering(on_error, lazily=lazily, leniently=True).all_of(images)
    return sources if lazily else list(sources)


def is_lazy(images: object) -> bool:
    """Whether images come one by one, from a source that may wait or never end."""
    return not isinstance(images, _SINGLE) and not isinstance(images, _COLLECTIONS) and not _is_file(images)


_SINGLE = (
    str, os.PathLike, np.ndarray, Image.Image, bytes, bytearray, memoryview, type(None), int, float, dict, Sample,
)  # fmt: skip
_COLLECTIONS = (list, tuple, Set, ValuesView, deque)


class _Gathering:
    """Items become sources, numbered from 0."""

    def __init__(
        self, on_error: OnError | None, of: Holds | None = None, *, lazily: bool = False, leniently: bool = False
    ) -> None:
        self._on_error, self._of, self._lazily, self._leniently = on_error, of, lazily, leniently
        self._count, self._told = 0, False
        self._failed: list[tuple[str, DatasetError]] = []
        self._pairing = Pairing()
        self._asks_a_store = False

    def all_of(self, images: Any) -> Iterator[Sample]:
        alone = isinstance(images, _SINGLE) or _is_file(images)
        items = [images] if alone else _iterated(images)
        for number, item in enumerate(items):
            for source in self._of_item(item, None if alone else number):
                self._count += 1
                yield source
        if not (self._count or self._told or (self._leniently and self._failed)):
            raise self._failed[0][1] if self._failed else DatasetError("no images were given")
        self._tell()

    def _of_item(self, item: Any, number: int | None) -> Iterable[Sample]:
        """The sources of an item; `number`: its place among several."""
        name = f"image {self._count}"
        if isinstance(item, Sample):
            return [item]
        if isinstance(item, Mapping):
            return [self._of_mapping(item, number)]
        if isinstance(item, np.ndarray):
            return self._of_array(item, number)
        if isinstance(item, Image.Image):
            return [Sample.of(str(getattr(item, "filename", "") or name), item)]
        if isinstance(item, RemotePath):
            return self._of_address(item, number)
        if isinstance(item, (str, os.PathLike)):
            return self._of_path(os.fspath(item), number)
        if isinstance(item, (bytes, bytearray, memoryview)):
            return [Sample.of(name, bytes(item))]
        if _is_file(item):
            return [Sample.of(*_read(item, name))]
        place = "" if number is None else f"item {number}: "
        if item is None:
            words = f"{place}is None, which is what cv2.imread gives for a file that it cannot read: check the path"
            if self._lazily and self._on_error is not None:  # a frame that was lost; the camera goes on
                self._on_error(name, ImageError(words))
                self._count += 1
                return []
            raise OptionError(words if place else f"the image {words}")
        raise OptionError(f"{place}{_KNOWN}, not {described(item)}")

    def _of_array(self, array: NDArray[Any], number: int | None) -> Iterable[Sample]:
        if array.dtype.kind in "UO" and array.ndim == 1 and number is None:  # of paths, or of arrays
            return [source for i, item in enumerate(array.tolist()) for source in self._numbered(item, i)]
        if array.ndim == 4 and array.shape[3] in CHANNELS:
            return [Sample.of(f"image {self._count + i}", image) for i, image in enumerate(array)]
        takes_several = self._of is not None or self._leniently  # where one is taken, its reader says what is wrong
        is_stack = array.ndim == 4 or (takes_several and array.ndim == 3 and array.shape[2] not in CHANNELS)
        if number is None and is_stack:
            raise OptionError(f"an array of shape {shape_of(array)} {about_shape(array)}")
        return [Sample.of(f"image {self._count}", array)]

    def _of_mapping(self, channels: Mapping[Any, Any], number: int | None) -> Sample:
        """One sample with several channels, never several samples."""
        place = "" if number is None else f"item {number}: "
        found: dict[str, Data] = {}
        for channel, item in channels.items():
            if not isinstance(channel, str) or isinstance(item, Mapping):
                raise OptionError(
                    f"{place}a mapping is one sample: names of channels and an image each, {{'rgb': path}}"
                )
            try:
                images = list(_Gathering(None).all_of([item]))
            except DatasetError as error:
                raise ImageError(f"{place}channel {channel!r}: {error}") from None
            if len(images) != 1:
                raise OptionError(f"{place}channel {channel!r} must be one image, not {len(images)}")
            name = GEOMETRY_CHANNEL if channel in ALIASES else channel
            if name in found:
                raise OptionError(f"{place}channel {channel!r} is the geometry of this sample a second time: give one")
            found[name] = next(iter(images[0].channels.values()))
        if not found:
            raise OptionError(f"{place}a sample needs at least one channel, such as {{'rgb': path}}")
        first = next(iter(found.values()))
        return Sample(str(first) if isinstance(first, Path) else f"image {self._count}", found)

    def _numbered(self, item: Any, number: int) -> list[Sample]:
        found = list(self._of_item(item, number))
        self._count += len(found)
        return found

    def _of_path(self, path: str, number: int | None) -> list[Sample]:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not path:
            raise OptionError("an empty string is no path: name an image or a folder (`.` is the current one)")
        if isinstance(address := located(path), RemotePath):
            return self._of_address(address, number)
        if os.path.isdir(path):
            return self._of_folder(Path(path), number)
        if os.path.lexists(path):
            if self._lazily:  # the partners of later images may not be there yet
                self._pairing = Pairing()
            return [self._pairing.sample(Path(path))]
        if glob.has_magic(path):
            found = sorted(glob.glob(path, recursive=True))
            if found:
                return [source for match in found for source in self._of_path(match, number)]
        return self._fail(path, f"{path}: no such file or folder", number)

    def _of_address(self, path: RemotePath, number: int | None) -> list[Sample]:
        """An object or folder in a store. A name that ends as images do is an image, which is asked for when it is
        read: a list of addresses may be long, and its account may not list."""
        if not self._asks_a_store:
            self._asks_a_store = True
            forget()
        if self._lazily:
            self._pairing = Pairing()
        try:
            if glob.has_magic(path.key) and not path.exists() and (found := matches_of(path)):
                return [source for match in found for source in self._of_address(match, number)]
            if path.suffix.lower() in IMAGE_SUFFIXES | POINTS_SUFFIXES:
                return [self._pairing.sample(path)]
            if path.is_dir():
                return self._of_folder(path, number)
            if path.exists():
                return [self._pairing.sample(path)]
        except DatasetError as error:
            return self._fail(str(path), str(error), number)
        return self._fail(str(path), f"{path}: there is no such object or folder", number)

    def _fail(self, path: str, words: str, number: int | None) -> list[Sample]:
        """A path of several that gives nothing: the others go on."""
        if number is None or self._on_error is None:
            raise DatasetError(words)
        self._failed.append((path, DatasetError(words)))
        if self._lazily:
            self._tell()
        return []

    def _tell(self) -> None:
        while self._failed and self._on_error is not None:
            path, error = self._failed.pop(0)
            self._told = True
            self._on_error(path, ImageError(str(error)))

    def _of_folder(self, folder: Path, number: int | None) -> list[Sample]:
        listing = list_folder(folder)
        masks = [file for file in listing.files if self._pairing.is_mask(file)]
        if masks:
            notify(f"{folder}: passed over {PassedOver(_MASKS, len(masks), masks[0])}")
        files = [file for file in listing.files if file not in set(masks)] if masks else listing.files
        found = self._pairing.samples(files, listing.points)
        listing = listing.taken({file for sample in found for file in sample.channels.values()})
        if self._of:
            check_content(listing.root, [path for sample in found if (path := sample.file)], holds=self._of)
        if listing.note:
            notify(listing.note)
        if not found:
            return self._fail(str(folder), without_images(listing), number)
        if self._on_error is not None:
            for failed in listing.failed:
                self._on_error(str(failed.path), failed.error)
        return found


def without_images(listing: Listing) -> str:
    """Why a folder gives nothing."""
    at_fault = [failed for failed in listing.failed if failed.path == listing.root]
    if at_fault:
        return str(at_fault[0].error)
    seen = f"; {listing.note}" if listing.note else ""
    return f"{listing.root}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))}){seen}"


def _iterated(images: Any) -> Iterable[Any]:
    """The items of something that holds or makes several images."""
    is_array, axes = hasattr(images, "__array__"), int(getattr(images, "ndim", 0))
    if is_array and axes == 1 and hasattr(images, "tolist"):  # a column of a table
        values: list[Any] = images.tolist()
        return values
    if is_table(images) or is_tensor(images) or (is_array and axes < 4):
        raise OptionError(f"{_KNOWN}, not {described(images)}")
    try:
        items: Iterator[Any] = iter(images)
    except TypeError:
        raise OptionError(f"{_KNOWN}, not {described(images)}") from None
    return items


def _is_file(item: object) -> bool:
    return callable(getattr(item, "read", None)) and not isinstance(item, (os.PathLike, Sequence))


def _read(file: Any, name: str) -> tuple[str, bytes]:
    """Name and content of an opened file."""
    given = getattr(file, "name", None)
    name = given if isinstance(given, str) and given else name
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # closed, or opened for writing
        raise OptionError(f"{name}: this file object cannot be read ({error})") from None
    if not isinstance(data, (bytes, bytearray)):
        raise OptionError(f"{name}: this file object gives {type(data).__name__}: open it in binary mode ('rb')")
    if not data:
        raise OptionError(f"{name}: this file object is at its end: call seek(0) before it is read again")
    return name, bytes(data)
