"""`S3Backend`: a chunk an object, whole-object writes, everything checked. Reads of a sick store are misses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from lms_tiers.buffers import copy_bytes
from lms_tiers.errors import (
    ConfigError,
    InvalidBufferError,
    StorageFullError,
    StorageUnavailableError,
)
from lms_tiers.interface import Capabilities
from lms_tiers.messages import ChunkMeta
from lms_tiers.plugins.s3.options import S3Options, store_of
from lms_tiers.remote import Found, Ready, RemoteBackend, room_for
from lms_tiers.wire.head import head_of, pack_head

_T = TypeVar("_T")
_S = TypeVar("_S")

#: Longer objects are written in parts of so many bytes, several at one time; S3 wants 5 MiB at least.
PART: Final = 8 << 20
#: Bytes of a step of what is copied as it arrives: enough that what a step costs is little.
_STREAM: Final = 1 << 20
_PARTS: Final = 4
#: Bytes of a key: as a name of an object each of them may take three, of 1,024.
MAX_KEY: Final = 300
#: Bytes that hold any head.
_LEAD: Final = 4096
#: A status with which nothing was done; any other failure leaves it open.
_REFUSED: Final = re.compile(r"status code: (4\d\d|503|507)")
_BUSY: Final = re.compile(r"status code: (429|503)")
_FULL: Final = re.compile(r"status code: 507|QuotaExceeded|StorageFull")
_FAILED: Final = (BaseError, OSError, ValueError)


class S3Backend(RemoteBackend):
    """Chunks as objects below a prefix of a bucket, usable from many threads.

    Parameters
    ----------
    location : str
        ``bucket/prefix``.
    options : S3Options

    Raises
    ------
    ConfigError
        The store's settings cannot be used.
    StorageUnavailableError
        The bucket cannot be listed: it is not there, not reached, or refuses.
    """

    named: ClassVar[str] = "the s3 backend"
    capabilities: ClassVar[Capabilities] = Capabilities(
        remove=True, evicts=True, shared=True, batch_stops=False, max_key_bytes=MAX_KEY
    )

    def __init__(self, location: str, options: S3Options) -> None:
        given, prefix = store_of(location, options)
        super().__init__(f"s3://{given['bucket']}/{prefix}")
        self._prefix: Final = f"{prefix}/" if prefix else ""
        self._retries: Final = options.retries
        self._ranges: Final = options.ranges
        self._half: Final = options.timeout / 2
        try:
            self._store: Final = S3Store(**given)
            # A put whose answer is lost may be carried out late. Repeated, it would return, and come back over the put
            # that follows.
            self._writes: Final = S3Store(**given | {"retry_config": {"max_retries": 0}})
        except (BaseError, ValueError) as error:
            raise ConfigError(f"backend 's3' cannot be set up: {_told(error)}.") from None
        try:
            next(iter(obstore.list(self._store, prefix=self._prefix or None, chunk_size=1)), None)
        except _FAILED as error:
            raise StorageUnavailableError(self._where, f"cannot be listed: {_told(error)}.") from None
        self._pool: Final = ThreadPoolExecutor(options.connections, thread_name_prefix="lms-tiers-s3")

    # -- writing -----------------------------------------------------------------------------------------------------

    def _put(self, chunks: Sequence[Ready]) -> Sequence[StorageUnavailableError]:
        """Whole objects, several at one time: others see the old one or the new one."""
        failures = self._all(lambda ready: self._failure("put", lambda: self._put_one(*ready)), chunks)
        return [error for error in failures if error is not None]

    def _put_one(self, text: str, meta: ChunkMeta, body: memoryview) -> None:
        head = pack_head(text.encode(), meta, body)
        if len(body) <= PART:
            obstore.put(self._writes, self._name(text), b"".join((head, body)), use_multipart=False)
            return
        first = PART - len(head)
        parts: tuple[Any, ...] = (
            b"".join((head, body[:first])),
            *(body[i : i + PART] for i in range(first, len(body), PART)),
        )
        obstore.put(self._writes, self._name(text), iter(parts), chunk_size=PART, max_concurrency=_PARTS)

    def _remove(self, texts: Sequence[str]) -> Sequence[StorageUnavailableError]:
        """A thousand in one request."""
        names = [self._name(text) for text in texts]
        failure = self._failure("remove", lambda: obstore.delete(self._writes, names))
        return [] if failure is None else [failure]

    def _failure(self, operation: str, call: Callable[[], object]) -> StorageUnavailableError | None:
        """What went wrong with a write."""
        try:
            self._repeat(call)
        except _FAILED as error:
            told = _told(error)
            if _FULL.search(str(error)):
                return StorageFullError(self._where, f"is full: {told}.")
            doubtful = isinstance(error, BaseError) and not _REFUSED.search(str(error))
            return self._error(f"{told}.", operation) if doubtful else self._error(f"refuses: {told}.")
        return None

    def _repeat(self, call: Callable[[], object]) -> None:
        """Call again what a store refused that was too busy: then nothing was done."""
        until, pause = time.monotonic() + self._half, self._half / 10
        for left in range(self._retries, -1, -1):
            try:
                call()
            except _FAILED as error:
                if not left or not _BUSY.search(str(error)) or time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
            else:
                return

    # -- reading -----------------------------------------------------------------------------------------------------

    def _fetch(self, texts: Sequence[str], buffer: Any) -> list[Found | None]:
        """Several requests at one time."""
        return self._all(lambda text: self._read(text, buffer), texts)

    def _read(self, text: str, buffer: Any) -> Found | None:
        """A chunk, in `buffer` or where it arrived; one that changed between two ranges is read once more."""
        name = self._name(text)
        for _ in range(2):
            try:
                found = obstore.get(self._store, name, options={"range": (0, self._ranges)})
                size = found.meta["size"]
                # One that is wanted nowhere else is handed out where the library has it: a copy would cost a third.
                alone = buffer is None and size <= self._ranges
                arriving: Iterable[Any] = [found.bytes()] if alone else found.stream(min_chunk_size=_STREAM)
                parts = (memoryview(part) for part in arriving)
                first = next(parts, memoryview(b""))
                head = head_of(text.encode(), bytes(first[:_LEAD]))
                if head is None or head.size + head.meta.length != size:
                    break
                body = first[head.size :]
                if not alone:
                    body = memoryview(room_for(head.meta, buffer))
                    self._fill(name, head.size, chain((first[head.size :],), parts), body)
            except InvalidBufferError:
                raise
            except FileNotFoundError:
                return None
            except _FAILED as error:
                # An object without a byte has no range: it is none of ours.
                self._count("corrupt" if "status code: 416" in str(error) else "failures")
                return None
            if head.fits(body):
                self._count("bytes_read", head.meta.length)
                return head.meta, body.toreadonly()
        self._count("corrupt")
        return None

    def _fill(self, name: str, lead: int, parts: Iterable[memoryview], body: memoryview) -> None:
        """Take the bytes that arrive, then the ranges that are left, several at one time; `lead` bytes come before."""
        at = 0
        for part in parts:
            copy_bytes(body[at : at + len(part)], part)
            at += len(part)
        starts = list(range(lead + at, lead + len(body), self._ranges))
        for i in range(0, len(starts), _PARTS):
            begin = starts[i : i + _PARTS]
            ends = [min(start + self._ranges, lead + len(body)) for start in begin]
            for range_ in obstore.get_ranges(self._store, name, starts=begin, ends=ends, coalesce=0):
                part = memoryview(range_)
                copy_bytes(body[at : at + len(part)], part)
                at += len(part)
        if at != len(body):
            raise OSError(f"{at} bytes came of {len(body)}")

    def _there(self, texts: Sequence[str]) -> list[bool]:
        """Several requests at one time."""
        return self._all(self._is_there, texts)

    def _is_there(self, text: str) -> bool:
        try:
            obstore.head(self._store, self._name(text))
        except FileNotFoundError:
            return False
        except _FAILED:
            self._count("failures")
            return False
        return True

    # -- listing -----------------------------------------------------------------------------------------------------

    def _metas(self, texts: Sequence[str]) -> list[ChunkMeta | None]:
        """Of the heads alone, several requests at one time."""
        return self._all(self._meta, texts)

    def _meta(self, text: str) -> ChunkMeta | None:
        try:
            found = obstore.get_range(self._store, self._name(text), start=0, end=_LEAD)
        except _FAILED:
            return None
        head = head_of(text.encode(), bytes(found))
        return None if head is None else head.meta

    def _listed(self) -> Iterator[str]:
        """The names of a page of a thousand are one request, and no object is read."""
        self._check()
        try:
            for page in obstore.list(self._store, prefix=self._prefix or None):
                for found in page:
                    text = unquote(found["path"].removeprefix(self._prefix))
                    if text and self._name(text) == found["path"]:  # else nobody here wrote it
                        yield text
                self._check()
        except _FAILED as error:
            self._count("failures")
            raise StorageUnavailableError(self._where, f"cannot be listed: {_told(error)}.") from None

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=False)  # requests on their way end by their time-out

    def _all(self, call: Callable[[_T], _S], items: Sequence[_T]) -> list[_S]:
        if len(items) < 2:
            return [call(item) for item in items]
        try:
            return list(self._pool.map(call, items))
        except RuntimeError:  # closed meanwhile
            self._check()
            raise

    def _name(self, text: str) -> str:
        """The name of a key's object; a first dot is written out, since `.` and `..` are none."""
        name = quote(text, safe="@")
        return self._prefix + ("%2E" + name[1:] if name.startswith(".") else name)


def _told(error: Exception) -> str:
    """What an error of the library says in one line; its later lines are a dump of its internals."""
    return str(error).splitlines()[0].strip().rstrip(".:") if str(error) else type(error).__name__


def open_backend(location: str, capacity: int | None, options: S3Options) -> S3Backend:
    """A client of the bucket at `location`; what it may hold is the store's business, so `capacity` is the tier's."""
    return S3Backend(location, options)
