"""Arrays of numpy (NPY, and NPZ with one array), PFM pictures, and tables of numbers (CSV)."""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape.files.stored import (
    Grid,
    Kind,
    Stored,
    as_grid,
    as_numbers,
    check_length,
    check_packed,
    check_shape,
    check_size,
    first_bytes,
)

_MAGIC = b"\x93NUMPY"
_HEADER = 1 << 14  # bytes that the header of an array can have

# ---- NPY -------------------------------------------------------------------------------------------------------------


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type; the file then stands at the values."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(file, max_header_size=_HEADER)
    except Exception:  # its header is an expression of Python, which fails in many ways
        raise ImageError("begins as a NPY file, but its header is damaged, cut off or of an unknown version") from None
    return check_shape(shape, dtype), is_fortran, dtype


def _npy_size(file: IO[bytes]) -> tuple[int, int]:
    shape, _, _ = _npy_header(file)
    return shape[0], shape[1]


def _read_npy(data: bytes) -> Grid:
    file = io.BytesIO(data)
    shape, is_fortran, dtype = _npy_header(file)
    count, at = math.prod(shape), file.tell()
    check_length(count * dtype.itemsize, len(data) - at)
    values = np.frombuffer(data, dtype, count, at)
    return as_grid(values.reshape(shape, order="F" if is_fortran else "C"))


NPY = Kind(lambda start, length: start.startswith(_MAGIC), _npy_size, _read_npy)

# ---- NPZ -------------------------------------------------------------------------------------------------------------


@contextmanager
def _only_member(file: IO[bytes]) -> Iterator[tuple[IO[bytes], zipfile.ZipInfo]]:
    """The one array of an archive. Raises `ImageError` for any other archive, and for a damaged one."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) != 1 or not members[0].filename.endswith(".npy"):
                names = ", ".join(member.filename for member in members[:5])
                raise ImageError(f"must be a NPZ file with one array, and has {len(members)} members ({names})")
            with archive.open(members[0]) as member:
                yield member, members[0]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError):
        raise ImageError("begins as a NPZ file, but is damaged, cut off or encrypted") from None


def _npz_size(file: IO[bytes]) -> tuple[int, int]:
    with _only_member(file) as (member, _):
        return _npy_size(io.BytesIO(member.read(_HEADER)))


def _read_npz(data: bytes) -> Grid:
    with _only_member(io.BytesIO(data)) as (member, info):
        start = io.BytesIO(member.read(_HEADER))
        shape, _, dtype = _npy_header(start)
        size = start.tell() + math.prod(shape) * dtype.itemsize
        check_packed(size, info.compress_size)
        whole = start.getvalue() + member.read(max(size - len(start.getvalue()), 0))
    return _read_npy(whole)


NPZ = Kind(lambda start, length: start.startswith(b"PK\x03\x04"), _npz_size, _read_npz)

# ---- PFM -------------------------------------------------------------------------------------------------------------

_PFM = re.compile(rb"(Pf|PF)\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]{1,40})\s")


def _pfm_header(start: bytes) -> tuple[tuple[int, ...], str, int]:
    """Shape, type and where the values begin; a negative scale means that the lowest byte comes first."""
    found = _PFM.match(start)
    try:
        scale = float(found[4]) if found else math.nan
    except ValueError:
        scale = math.nan
    if found is None or not math.isfinite(scale):
        raise ImageError("begins as a PFM file, but its header is damaged or cut off")
    width, height = int(found[2]), int(found[3])
    check_size(height, width)
    shape = (height, width, 3) if found[1] == b"PF" else (height, width)
    return shape, "<f4" if scale < 0 else ">f4", found.end()


def _pfm_size(file: IO[bytes]) -> tuple[int, int]:
    shape, _, _ = _pfm_header(first_bytes(file))
    return shape[0], shape[1]


def _read_pfm(data: bytes) -> Grid:
    shape, dtype, at = _pfm_header(data)
    check_length(math.prod(shape) * 4, len(data) - at)
    return Grid(np.frombuffer(data, dtype, math.prod(shape), at).reshape(shape)[::-1])  # the lowest row comes first


PFM = Kind(lambda start, length: start.startswith((b"Pf", b"PF")), _pfm_size, _read_pfm)

# ---- CSV -------------------------------------------------------------------------------------------------------------

_BOM = b"\xef\xbb\xbf"
_NUMBERS = re.compile(rb"[-+.,;\s\d]*(nan|inf|[-+.,;\d])", re.IGNORECASE)
_TEXT = re.compile(rb"[\t\r\n -~]*")


def _is_table(start: bytes, length: int) -> bool:
    """Whether a file is text that begins with numbers, or with cells without any."""
    text = start.removeprefix(_BOM)
    return bool(_TEXT.fullmatch(text) and _NUMBERS.match(text))


def _lines(data: bytes) -> tuple[list[bytes], bytes | None, bool]:
    """The lines that say something, what divides their cells (None: blanks), and whether a comma is a decimal one."""
    lines = [line for line in data.removeprefix(_BOM).splitlines() if line.strip()]
    first = lines[0] if lines else b""
    divider = next((sign for sign in (b";", b"\t", b",") if sign in first), None)
    if divider and all(line.rstrip(b" ").endswith(divider) for line in lines):
        lines = [line.rstrip(b" ")[:-1] for line in lines]  # each cell is followed by the sign, the last one too
    return lines, divider, divider != b","


def _csv_size(file: IO[bytes]) -> tuple[int, int]:
    lines, divider, _ = _lines(file.read())
    height, width = len(lines), len(lines[0].split(divider)) if lines else 0
    check_size(height, width)
    return height, width


def _read_csv(data: bytes) -> Stored:
    lines, divider, has_decimal_commas = _lines(data)
    width = len(lines[0].split(divider)) if lines else 0
    check_size(len(lines), width)
    check_length(len(lines) * width, len(data) + 1)  # each cell but the last is followed by a sign or a new line
    values = np.empty((len(lines), width), np.float64)
    for number, line in enumerate(lines):
        cells = (line.replace(b",", b".") if has_decimal_commas else line).split(divider)
        if len(cells) != width:
            raise ImageError(f"has {len(cells)} cells in row {number + 1} and {width} in the first: rows must be equal")
        values[number] = _row(cells, number)
    return Grid(values)


def _row(cells: list[bytes], number: int) -> NDArray[np.float64]:
    """The numbers of one row; an empty cell is no point."""
    with suppress(ValueError):
        return as_numbers(cells)
    row = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        try:
            row[i] = float(cell) if cell.strip() else math.nan
        except ValueError:
            word = cell.strip()[:20].decode("ascii", "replace")
            raise ImageError(f"has {word!r} in row {number + 1}, cell {i + 1}, where a number is expected") from None
    return row


CSV = Kind(_is_table, _csv_size, _read_csv)
