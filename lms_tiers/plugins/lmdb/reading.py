"""The way out: one look-up, one read, one checksum. Neighbours of a batch are read together.

A chunk's length and metadata are compared before anything is written into a caller's buffers. Bytes that do not have
their checksum are looked up again before they are called damaged: their pages may have been given up meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import xxhash

from lms_tiers.buffers import room_for, scatter_bytes, writable_bytes
from lms_tiers.errors import InvalidBufferError, LmsTiersError
from lms_tiers.interface import ChunkInFile
from lms_tiers.messages import ChunkMeta
from lms_tiers.plugins.lmdb.calls import reading
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.datafile import DataFile, Piece, joined, laid
from lms_tiers.plugins.lmdb.layout import Chunk, Damaged, is_raw, plain
from lms_tiers.plugins.lmdb.store import Store
from lms_tiers.wire.buffers import receive_buffer

_log = logging.getLogger(__name__)

#: Chunks of a batch that are read together.
_READ_TOGETHER: Final = 64
#: What was read is checked before more is read: more bytes than these have left a core's cache by then.
_TOGETHER: Final = 2 << 20
#: Of more bytes than these xxhash lets the interpreter's lock go, and of so many it is better kept: they take 13 µs,
#: and whoever waits for the lock needs 40 to wake up, and finds it taken again.
_AT_ONCE: Final = 64 << 10
_KEPT: Final = 512 << 10

#: Where the bytes of a chunk go: buffers that have room for it together, by its metadata; None: not wanted.
Target: TypeAlias = Callable[[ChunkMeta], list[memoryview] | None]
#: A chunk that was read, and the buffers that its target answered.
Found: TypeAlias = tuple[ChunkMeta, list[memoryview]]


@dataclass(slots=True, eq=False)
class _Job:
    """One chunk of a batch: where its stored bytes go, and its bytes; `encoded` where those are not the same."""

    text: str
    entry: bytes
    meta: ChunkMeta
    checksum: int
    out: list[memoryview]
    into: list[memoryview]
    pieces: list[Piece]
    encoded: Chunk | None = None
    arrived: bool = True

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return sum(map(len, self.into))


class Reader:
    """Reads of one store."""

    def __init__(self, store: Store, coding: Coding) -> None:
        self._store: Final = store
        self._coding: Final = coding

    def located(self, text: str) -> Chunk | None:
        """What is known of a chunk, whether or not it can be read."""
        entry = self._store.find(text, keep=False)
        return None if entry is None else self._store.trusted(entry)

    def readable(self, text: str) -> Chunk | None:
        """What is known of a chunk that can be read."""
        found = self.located(text)
        return found if found is not None and self._coding.reads(found.layout) else None

    def contains(self, text: str) -> bool:
        """Whether a chunk is there that can be read."""
        entry = self._store.find(text, keep=False)
        return entry is not None and (is_raw(entry) or self.readable(text) is not None)

    def one(self, text: str, target: Target) -> Found | None:
        """A chunk in the buffers that `target` answers. The caller is inside, as `calls.reading` says."""
        store = self._store
        entry = store.entries.get(text)
        usual = None if entry is None else plain(entry)
        if usual is not None:
            # One look-up, one read, one checksum.
            meta, checksum, offset = usual
            buffers = target(meta)
            if buffers is None:
                return None
            if store.data.readv(offset, buffers, meta.length) and checksum_of(buffers) == checksum:
                store.counters.read += meta.length
                return meta, buffers
        return self.many(((text, target),))[0]

    def in_file(self, text: str) -> ChunkInFile | None:
        """Where the usual chunk lies, unread; None of one that is encoded, in several runs, or past the page cache.

        The caller is inside, as for `one`.
        """
        store = self._store
        entry = store.find(text) if store.data.cached else None
        usual = None if entry is None else plain(entry)
        if usual is None:
            return None
        meta, checksum, offset = usual
        store.counters.read += meta.length
        return ChunkInFile(meta, store.data.fd, offset, checksum)

    def many(self, wanted: Sequence[tuple[str, Target]]) -> list[Found | None]:
        """Chunks in the buffers that their targets answer, neighbours by one read each."""
        answers: list[Found | None] = [None] * len(wanted)
        for begin in range(0, len(wanted), _READ_TOGETHER):
            again = self._try(wanted, range(begin, min(begin + _READ_TOGETHER, len(wanted))), answers)
            while again:
                again += self._try(wanted, (again.pop(),), answers)
        return answers

    @reading  # no longer: what long batches kept back, puts would wait for
    def _try(
        self, wanted: Sequence[tuple[str, Target]], numbers: Sequence[int], answers: list[Found | None]
    ) -> list[int]:
        """Answer some of those wanted; the numbers of those to look up again.

        Of several they may have changed, or a neighbour have ended the read: one alone that has not changed is damaged.
        """
        store, again = self._store, []
        jobs = [(number, job) for number in numbers if (job := self._job(*wanted[number])) is not None]
        for some in _together(jobs):
            self._read([job for _, job in some])
            for number, job in some:
                if job.arrived and self._whole(job):
                    store.counters.read += job.nbytes
                    answers[number] = job.meta, job.out
                elif len(numbers) > 1 or store.entries.get(job.text) is not job.entry:
                    again.append(number)
                else:
                    self._drop(job)
        return again

    def _job(self, text: str, target: Target) -> _Job | None:
        store = self._store
        entry = store.entries.get(text) or store.find(text)
        if entry is None:
            return None
        usual = plain(entry)
        if usual is not None:
            meta, checksum, offset = usual
            out = target(meta)
            return None if out is None else _Job(text, entry, meta, checksum, out, out, [(offset, out, meta.length)])
        chunk = Chunk.unpack(entry, None)
        if not self._coding.reads(chunk.layout):
            store.counters.unreadable += 1  # kept for when its codec is back
            return None
        out = target(chunk.meta)
        if out is None:
            return None
        into = [memoryview(bytearray(chunk.stream))] if chunk.layout else out
        encoded = chunk if chunk.layout else None
        pieces = laid(chunk.extents, into, chunk.stream)
        return _Job(text, entry, chunk.meta, chunk.checksum, out, into, pieces, encoded)

    def _read(self, jobs: list[_Job]) -> None:
        """Read what is stored of each, neighbours by one read."""
        pieces = [(piece, job) for job in jobs for piece in job.pieces]
        for piece, whose in joined(pieces, gaps=True):
            if not self._store.data.readv(*piece):
                for job in whose:
                    job.arrived = False

    def _whole(self, job: _Job) -> bool:
        """Whether a job's bytes are what they should be; decodes them where they are encoded."""
        if checksum_of(job.into) != job.checksum:
            return False
        if job.encoded is None:
            return True
        one = len(job.out) == 1
        decoded = job.out[0] if one else memoryview(bytearray(job.meta.length))
        try:
            self._coding.decode(job.encoded, job.into[0], decoded)
        except Damaged:
            return False
        if not one:
            scatter_bytes([decoded], job.out)
        return True

    def _drop(self, job: _Job) -> None:
        """Damage is a miss and a counter, and the damaged chunk is removed, so that `contains` tells the truth."""
        store = self._store
        store.counters.corrupt += 1
        _log.warning("lmdb store %s: a chunk is damaged and was dropped", store.where)
        with suppress(LmsTiersError):
            store.remove((job.text,), only=job.entry)


def _together(jobs: list[tuple[int, _Job]]) -> Iterator[list[tuple[int, _Job]]]:
    """What is read before it is checked: so many bytes, or one chunk."""
    some: list[tuple[int, _Job]] = []
    weight = 0
    for one in jobs:
        nbytes = one[1].nbytes
        if some and weight + nbytes > _TOGETHER:
            yield some
            some, weight = [], 0
        some.append(one)
        weight += nbytes
    if some:
        yield some


def checksum_of(pieces: Sequence[memoryview]) -> int:
    """xxh3-64 of buffers, one after another."""
    if len(pieces) == 1 and not _AT_ONCE < len(pieces[0]) <= _KEPT:
        return xxhash.xxh3_64_intdigest(pieces[0])
    digest = xxhash.xxh3_64()
    for piece in pieces:
        step = _AT_ONCE if len(piece) <= _KEPT else len(piece)
        for at in range(0, len(piece), step):
            digest.update(piece[at : at + step])
    return digest.intdigest()


def is_whole(data: DataFile, chunk: Chunk) -> bool:
    """Whether a chunk's stored bytes are what they should be."""
    stored = [memoryview(bytearray(chunk.stream))]
    pieces = laid(chunk.extents, stored, chunk.stream)
    return all(data.readv(*piece) for piece in pieces) and checksum_of(stored) == chunk.checksum


def fresh(meta: ChunkMeta) -> list[memoryview]:
    """A target of memory of its own, which is not zeroed first: the checksum says that all of it was read."""
    return [memoryview(receive_buffer(meta.length))]


class Into:
    """A target of writable buffers, one after another, for a chunk that is just as `expected`, where that is given.

    Parameters
    ----------
    strict : bool
        Buffers that cannot take the chunk are an `InvalidBufferError` when it is asked; else it is not wanted.

    Attributes
    ----------
    lent : bool
        Whether something may have been written into the buffers.
    """

    __slots__ = ("_buffers", "_expected", "_strict", "lent")

    def __init__(self, buffers: Sequence[Any], strict: bool, expected: ChunkMeta | None = None) -> None:
        self._buffers = buffers
        self._strict = strict
        self._expected = expected
        self.lent = False

    def __call__(self, meta: ChunkMeta) -> list[memoryview] | None:
        """The buffers for a chunk of this metadata; None: not wanted."""
        if self._expected is not None and meta != self._expected:
            return None
        try:
            if len(self._buffers) == 1:
                found = [writable_bytes(self._buffers[0], meta.length)[: meta.length]]
            else:
                found = room_for(self._buffers, meta.length)
        except InvalidBufferError:
            if self._strict:
                raise
            return None
        self.lent = True
        return found
