"""What an object store is asked, through fsspec: lists, facts, contents, and to keep objects.

What may pass is tried again. Every function takes a store's scheme and the key of an object behind it,
"bucket/parts/007.png", and raises a `StoreError`, whose `strerror` is a clause for people.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from patchbank.errors import MissingPackageError

T = TypeVar("T")

PAUSES = (0.2, 1.0, 4.0)  # seconds before each further try of what may succeed the next time


class StoreError(OSError):
    """What a store does not give, and what to do."""

    def __init__(self, words: str) -> None:
        super().__init__(errno.EIO, words)


class NoSuchObject(StoreError, FileNotFoundError):
    """Nothing has that key."""


class NoFolder(StoreError, NotADirectoryError):
    """An object has the key of the folder."""


class AccessRefused(StoreError, PermissionError):
    """The credentials are missing, wrong, or not enough."""


@dataclass(frozen=True)
class Store:
    """A kind of object store.

    Attributes:
        protocol: its name in fsspec.
        package: what fsspec needs for it, and `extra` of patchbank that installs it.
        credentials: the environment variables that say who asks.
        place: those that say where the store is, where it is not the vendor's.
    """

    protocol: str
    package: str
    extra: str
    credentials: str
    place: str


_S3 = Store("s3", "s3fs", "s3", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", "AWS_ENDPOINT_URL")
_GS = Store("gs", "gcsfs", "gs", "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST")
_AZ = Store(
    "az", "adlfs", "az", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_CONNECTION_STRING",
)  # fmt: skip
STORES = {"s3": _S3, "s3a": _S3, "gs": _GS, "gcs": _GS, "az": _AZ, "abfs": _AZ, "abfss": _AZ}

_PASSING = frozenset((408, 425, 429))  # and all from 500 on: the server may answer the next time
# Classes of errors of a connection, by the names that botocore, aiohttp, requests, azure-core and fsspec give them.
_BROKEN = frozenset(
    ("HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ConnectionError", "TimeoutError",
     "ResponseParserError", "IncompleteRead", "IncompleteReadError", "ServiceRequestError", "ServiceResponseError",
     "ChunkedEncodingError", "FSTimeoutError", "EOFError")
)  # fmt: skip
_NO_CREDENTIALS = ("Credential", "Unauthorized", "TokenRetrieval", "ClientAuthenticationError", "ProfileNotFound")


@dataclass(frozen=True)
class Facts:
    """What a list says of one object or folder; `size` in bytes, None for a folder."""

    name: str
    size: int | None


def listed(scheme: str, key: str) -> list[Facts]:
    """The objects and folders right below a folder, all pages, sorted by name. The folder itself, which some programs
    keep as an empty object, is not among them; a name that is empty stands for keys with two slashes in a row."""
    raw = _asked(scheme, key, lambda files: files.ls(key, detail=True, refresh=True))
    found: dict[str, Facts] = {}
    for entry in raw:
        name, is_folder = str(entry["name"]), entry["type"] == "directory"
        below = name.removeprefix(key).removeprefix("/")
        if name.rstrip("/") == key and not is_folder:
            continue
        found[below] = Facts(below.rstrip("/"), None if is_folder else int(entry["size"] or 0))
    if not found and len(raw) == 1 and raw[0]["name"] == key and raw[0]["type"] == "file":
        raise NoFolder("is an object, not a folder")
    return sorted(found.values(), key=lambda facts: facts.name)


def beginning_with(scheme: str, key: str, start: str) -> list[Facts]:
    """The objects right below a folder whose names begin so, without a list of all."""
    raw = _asked(scheme, key, lambda files: files.find(key, detail=True, prefix=start))
    names = {str(name).removeprefix(f"{key}/"): int(entry["size"] or 0) for name, entry in raw.items()}
    return [Facts(name, size) for name, size in sorted(names.items()) if name.startswith(start) and "/" not in name]


def matching(scheme: str, pattern: str) -> list[str]:
    """The keys of objects and folders that a pattern such as "bucket/*/00?.png" matches, sorted."""
    return sorted(str(name) for name in _asked(scheme, pattern, lambda files: files.glob(pattern)))


def facts_of(scheme: str, key: str) -> Facts:
    """Whether a key is an object or a folder, and how large."""
    entry = _asked(scheme, key, lambda files: files.info(key, refresh=True))
    return Facts(key, None if entry["type"] == "directory" else int(entry["size"] or 0))


def content(scheme: str, key: str, first: int | None = None) -> bytes:
    """An object's bytes, or the `first` of them, in one request."""

    def read(files: Any) -> bytes:
        if first is None:
            return bytes(files.cat_file(key))
        try:
            return bytes(files.cat_file(key, start=0, end=first))
        except OSError as error:
            if _status(error) == 416:  # the object is empty
                return b""
            raise

    return _asked(scheme, key, read)


def put(scheme: str, key: str, data: bytes) -> None:
    """Keep an object, in place of what has that key."""
    _asked(scheme, key, lambda files: files.pipe_file(key, data))


def remove(scheme: str, key: str) -> None:
    """Remove an object. Stores differ in what they say where there is none: nothing, or `NoSuchObject`."""
    _asked(scheme, key, lambda files: files.rm_file(key))


def times_of(scheme: str, key: str) -> list[tuple[str, float]]:
    """The names of all objects below a folder, and the seconds since 1970 at which each was written."""
    try:
        raw = _asked(scheme, key, lambda files: files.find(key, detail=True))
    except NoSuchObject:
        return []
    return [(str(name).removeprefix(f"{key}/"), _written(entry)) for name, entry in sorted(raw.items())]


def _written(entry: dict[str, Any]) -> float:
    """When an object of a list was written; each store has a name of its own for it."""
    found = next(entry[name] for name in ("LastModified", "mtime", "last_modified", "created") if entry.get(name))
    if isinstance(found, str):
        found = datetime.fromisoformat(found.replace("Z", "+00:00"))
    return float(found.timestamp())


# ---- one request, and what becomes of it -----------------------------------------------------------------------------

_down: set[str] = set()  # schemes whose last request failed after all tries: the next ones are tried once
_files: dict[str, Any] = {}  # file systems by scheme
_opening = threading.Lock()


def _asked(scheme: str, key: str, ask: Callable[[Any], T]) -> T:
    """What `ask` gives for the store's file system, tried again where the connection breaks or the server is busy."""
    store = STORES[scheme]
    files = _file_system(scheme)
    pauses = () if scheme in _down else PAUSES
    for pause in (*pauses, None):
        try:
            answer = ask(files)
        except Exception as error:  # each store's client has errors of its own
            if not _may_pass(error):
                translated = _translated(error, store)
                if isinstance(translated, AccessRefused):  # who asks is decided once for each file system
                    _files.pop(scheme, None)
                raise translated from error
            if pause is None:
                _down.add(scheme)
                tries = f" after {len(pauses) + 1} tries" if pauses else ""
                words = f"the store does not answer{tries} ({_words(error)}): check the network and {store.place}"
                raise StoreError(words) from error
            time.sleep(pause)
        else:
            _down.discard(scheme)
            return answer
    raise AssertionError("unreachable")


def _file_system(scheme: str) -> Any:
    """The file system of a store, opened once."""
    with _opening:
        if scheme not in _files:
            _files[scheme] = _opened(scheme)
        return _files[scheme]


def _opened(scheme: str) -> Any:
    """A new file system, which asks nothing yet; requests are repeated here alone, and lists are not kept."""
    store = STORES[scheme]
    install = f"{scheme}:// needs packages that are missing: `pip install patchbank[{store.extra}]`"
    try:
        import fsspec
        from fsspec.config import conf
    except ImportError:
        raise MissingPackageError(install) from None
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if store is _S3:
        # whole objects in one request each, without asking for their size first
        options |= {"max_concurrency": 1}
        if "config_kwargs" not in conf.get("s3", {}):
            options |= {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    try:
        files = fsspec.filesystem(store.protocol, **options)
    except ImportError:
        raise MissingPackageError(install) from None
    except Exception as error:  # such as a client that wants to know the account at once
        raise _translated(error, store) from error
    if store is _S3:
        files.retries = 1
    return files


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed the next time."""
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return False
    if _lacks_credentials(error):
        return False
    if {kind.__name__ for each in _chain(error) for kind in type(each).__mro__} & _BROKEN:
        return True  # whatever the status: aiohttp gives an answer that broke off the status 400
    status = _status(error)
    return status is not None and (status in _PASSING or status >= 500)


def _translated(error: Exception, store: Store) -> StoreError:
    """What will not pass, in words."""
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return NoSuchObject("there is no such object or folder")
    if isinstance(error, PermissionError) or status in (401, 403) or _lacks_credentials(error):
        return AccessRefused(
            f"the store refuses access ({_words(error)}): set {store.credentials} to an account that may list and read "
            "it"
        )
    return StoreError(f"the store refuses the request ({_words(error)})")


def _lacks_credentials(error: Exception) -> bool:
    return any(part in type(each).__name__ for each in _chain(error) for part in _NO_CREDENTIALS)


def _status(error: BaseException) -> int | None:
    """The status of the HTTP answer that an error tells of."""
    for each in _chain(error):
        answer = getattr(each, "response", None)
        meta = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
        found = (getattr(each, name, None) for name in ("status_code", "status", "code"))
        for value in (meta.get("HTTPStatusCode"), *found):
            if isinstance(value, int) and 100 <= value < 600:
                return value
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _words(error: BaseException) -> str:
    """The first line of what an error says."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
