"""The way out: one look-up, one read, one checksum. Neighbours of a batch are read together.

A chunk's length and metadata are compared before anything is written into a caller's buffers. Bytes that do not have
their checksum are looked up again before they are called damaged: their pages may have been given up meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import xxhash

from lms_tiers.buffers import room_for, writable_bytes
from lms_tiers.errors import InvalidBufferError, LmsTiersError
from lms_tiers.interface import ChunkInFile
from lms_tiers.messages import ChunkMeta
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.entries import ENTRY, offset_of
from lms_tiers.plugins.lmdb.layout import PAGE, Chunk, Damaged, Form
from lms_tiers.plugins.lmdb.store import Store
from lms_tiers.wire.buffers import receive_buffer

_log = logging.getLogger(__name__)

#: Chunks of a batch that are read together.
_READ_TOGETHER: Final = 64
#: One read takes up to so many bytes and buffers, and skips up to so many bytes between two chunks.
_TOGETHER: Final = 8 << 20
_BUFFERS: Final = 1000
_GAP: Final = 2 * PAGE

#: Where the bytes of a chunk go: buffers that have room for it together, by its metadata; None: not wanted.
Target: TypeAlias = Callable[[ChunkMeta], list[memoryview] | None]


@dataclass(slots=True, eq=False)
class _Job:
    """One chunk of a batch: where its stored bytes go, and its bytes."""

    entry: bytes
    chunk: Chunk
    into: list[memoryview]
    out: list[memoryview]
    arrived: bool = True


class Reader:
    """Reads of one store."""

    def __init__(self, store: Store, coding: Coding) -> None:
        self._store: Final = store
        self._coding: Final = coding
        self._skipped: Final = memoryview(bytearray(_GAP))

    def located(self, text: str) -> Chunk | None:
        """What is known of a chunk, whether or not it can be read."""
        store = self._store
        with store.epochs.calling():
            store.check()
            entry = store.find(text, keep=False)
            return None if entry is None else store.forms.chunk(text, entry)

    def readable(self, text: str) -> Chunk | None:
        """What is known of a chunk that can be read."""
        found = self.located(text)
        return found if found is not None and self._coding.reads(found.form.layout) else None

    def get(self, text: str) -> tuple[ChunkMeta, bytearray] | None:
        """A chunk in memory of its own, which is not zeroed first: its checksum says that all of it was read."""
        fresh = Fresh(receive_buffer)
        meta = self.into(text, fresh)
        return None if meta is None else (meta, fresh.data)

    def into(self, text: str, target: Target) -> ChunkMeta | None:
        """A chunk in the buffers that `target` answers."""
        store = self._store
        with store.epochs.reading():
            store.check()
            entry = store.entries.get(text)
            if entry is not None and len(entry) == ENTRY.size:
                # The usual chunk, in one run: one look-up, one read, one checksum.
                _, checksum, place, number, _, _ = ENTRY.unpack(entry)
                form: Form = store.forms.by_number[number]
                if not form.layout:
                    meta = form.meta
                    buffers = target(meta)
                    if buffers is None:
                        return None
                    if store.data.readv(offset_of(place), buffers, meta.length) and checksum_of(buffers) == checksum:
                        store.counters.read += meta.length
                        return meta
        return self.many(((text, target),))[0]

    @contextmanager
    def in_file(self, text: str) -> Iterator[ChunkInFile | None]:
        """Where the usual chunk lies, unread; None of one that is encoded, in several runs, or past the page cache."""
        store = self._store
        with store.epochs.reading():
            store.check()
            entry = store.find(text)
            found: ChunkInFile | None = None
            if entry is not None and len(entry) == ENTRY.size and store.data.cached:
                _, checksum, place, number, _, _ = ENTRY.unpack(entry)
                form: Form = store.forms.by_number[number]
                if not form.layout:
                    found = ChunkInFile(form.meta, store.data.fd, offset_of(place), checksum)
                    store.counters.read += form.meta.length
            yield found

    def many(self, wanted: Sequence[tuple[str, Target]]) -> list[ChunkMeta | None]:
        """Chunks in the buffers that their targets answer, neighbours by one read each."""
        answers: list[ChunkMeta | None] = [None] * len(wanted)
        for begin in range(0, len(wanted), _READ_TOGETHER):
            again = self._try(wanted, range(begin, min(begin + _READ_TOGETHER, len(wanted))), answers)
            while again:
                again += self._try(wanted, (again.pop(),), answers)
        return answers

    def _try(
        self, wanted: Sequence[tuple[str, Target]], numbers: Sequence[int], answers: list[ChunkMeta | None]
    ) -> list[int]:
        """Answer some of those wanted; the numbers of those to look up again.

        Of several they may have changed, or a neighbour have ended the read: one alone that has not changed is damaged.
        """
        store, again = self._store, []
        damaged: list[_Job] = []
        with store.epochs.reading():
            store.check()
            jobs = [(number, job) for number in numbers if (job := self._job(*wanted[number])) is not None]
            self._read([job for _, job in jobs])
            for number, job in jobs:
                if job.arrived and self._whole(job):
                    store.counters.read += job.chunk.stream
                    answers[number] = job.chunk.form.meta
                elif len(numbers) > 1 or store.entries.get(job.chunk.text) is not job.entry:
                    again.append(number)
                else:
                    damaged.append(job)
        for job in damaged:
            self._drop(job)
        return again

    def _job(self, text: str, target: Target) -> _Job | None:
        store = self._store
        entry = store.find(text)
        if entry is None:
            return None
        chunk = store.forms.chunk(text, entry)
        if not self._coding.reads(chunk.form.layout):
            store.counters.unreadable += 1  # kept for when its codec is back
            return None
        out = target(chunk.form.meta)
        if out is None:
            return None
        return _Job(entry, chunk, [memoryview(bytearray(chunk.stream))] if chunk.form.layout else out, out)

    def _read(self, jobs: list[_Job]) -> None:
        """Read what is stored of each, neighbours by one read."""
        pieces = [(offset, buffers, nbytes, job) for job in jobs for offset, buffers, nbytes in _runs(job)]
        pieces.sort(key=lambda piece: piece[0])
        at = 0
        while at < len(pieces):
            begin, buffers, length, job = pieces[at]
            buffers, whose, at = list(buffers), [job], at + 1
            while at < len(pieces):
                offset, more, nbytes, job = pieces[at]
                gap = offset - begin - length
                if not 0 <= gap <= _GAP or length + nbytes > _TOGETHER or len(buffers) + len(more) >= _BUFFERS:
                    break
                if gap:
                    buffers.append(self._skipped[:gap])
                buffers += more
                whose.append(job)
                length, at = length + gap + nbytes, at + 1
            if not self._store.data.readv(begin, buffers, length):
                for job in whose:
                    job.arrived = False

    def _whole(self, job: _Job) -> bool:
        """Whether a job's bytes are what they should be; decodes them where they are encoded."""
        chunk = job.chunk
        if checksum_of(job.into) != chunk.checksum:
            return False
        if not chunk.form.layout:
            return True
        one = len(job.out) == 1
        decoded = job.out[0] if one else memoryview(bytearray(chunk.form.meta.length))
        try:
            self._coding.decode(chunk.form, chunk.blocks, job.into[0], decoded)
        except Damaged:
            return False
        if not one:
            pending = [decoded]
            for piece in job.out:
                piece[:] = b"".join(front(pending, len(piece)))
        return True

    def _drop(self, job: _Job) -> None:
        """Damage is a miss and a counter, and the damaged chunk is removed, so that `contains` tells the truth."""
        store = self._store
        store.counters.corrupt += 1
        _log.warning("lmdb store %s: a chunk is damaged and was dropped", store.where)
        with suppress(LmsTiersError):
            store.remove((job.chunk.text,), only=job.entry)


def checksum_of(pieces: Sequence[memoryview]) -> int:
    """xxh3-64 of buffers, one after another."""
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0])
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece)
    return digest.intdigest()


def _runs(job: _Job) -> list[tuple[int, list[memoryview], int]]:
    """Where in the file, into which buffers, and how many bytes, for each extent of a chunk's stored bytes."""
    left, extents = job.chunk.stream, job.chunk.extents
    if len(extents) == 1 and left:
        return [(extents[0][0] * PAGE, job.into, left)]
    runs: list[tuple[int, list[memoryview], int]] = []
    pending = list(job.into)
    for page, count in extents:
        size = min(left, count * PAGE)
        if size:
            runs.append((page * PAGE, front(pending, size), size))
        left -= size
    return runs


def front(pending: list[memoryview], size: int) -> list[memoryview]:
    """The first `size` bytes of buffers, taken out of them."""
    taken: list[memoryview] = []
    while size:
        piece = pending[0]
        if len(piece) <= size:
            taken.append(pending.pop(0))
            size -= len(piece)
        else:
            taken.append(piece[:size])
            pending[0] = piece[size:]
            size = 0
    return taken


class Fresh:
    """A target of memory that `make` makes: `data`, once it was asked."""

    __slots__ = ("_make", "data")

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self.data: Any = None

    def __call__(self, meta: ChunkMeta) -> list[memoryview]:
        """Memory for a chunk of this metadata."""
        self.data = self._make(meta.length)
        return [memoryview(self.data)]


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
