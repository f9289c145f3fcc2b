"""The way out: one look-up, one read, one checksum. Neighbours of a batch are read together.

A chunk's length and metadata are compared before anything is written into a caller's buffers. Bytes that do not have
their checksum are looked up again before they are called damaged: their pages may have been given up meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import xxhash

from lms_tiers.buffers import writable_bytes
from lms_tiers.errors import InvalidBufferError, LmsTiersError
from lms_tiers.messages import ChunkMeta
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.layout import ENTRY, PAGE, Damaged, Form, Found, offset_of, read_entry
from lms_tiers.plugins.lmdb.store import Store

_log = logging.getLogger(__name__)

#: One read takes up to so many bytes and buffers, and skips up to so many bytes between two chunks.
_TOGETHER: Final = 8 << 20
_BUFFERS: Final = 1000
_GAP: Final = 2 * PAGE

#: Where the bytes of a chunk go: buffers that have room for it together, by its metadata; None: not wanted.
Target: TypeAlias = Callable[[ChunkMeta], list[memoryview] | None]


class Job:
    """One chunk of a batch: where its stored bytes go, and whether they arrived whole."""

    __slots__ = ("entry", "found", "into", "out", "text", "whole")

    def __init__(self, text: str, entry: bytes, found: Found, into: list[memoryview], out: Any) -> None:
        self.text = text
        self.entry = entry
        self.found = found
        self.into = into  # its stored bytes
        self.out = out  # its bytes
        self.whole = False


class Reader:
    """Reads of one store."""

    def __init__(self, store: Store, coding: Coding) -> None:
        self._store: Final = store
        self._coding: Final = coding
        self._skipped: Final = memoryview(bytearray(_GAP))

    def located(self, text: str) -> Found | None:
        """What is known of a chunk, whether or not it can be read."""
        store = self._store
        with store.epochs.calling():
            store.check()
            entry = store.find(text, keep=False)
            if entry is None:
                return None
            return read_entry(entry, store.forms)

    def readable(self, text: str) -> Found | None:
        """What is known of a chunk that can be read."""
        found = self.located(text)
        return found if found is not None and self._coding.reads(found.form.layout) else None

    def get(self, text: str) -> tuple[ChunkMeta, bytearray] | None:
        """A chunk in memory of its own."""
        out: list[bytearray] = []

        def target(meta: ChunkMeta) -> list[memoryview]:
            out[:] = [bytearray(meta.length)]
            return [memoryview(out[0])]

        meta = self.into(text, target)
        return None if meta is None else (meta, out[0])

    def into(self, text: str, target: Target) -> ChunkMeta | None:
        """A chunk in the buffers that `target` answers."""
        store = self._store
        with store.epochs.reading():
            store.check()
            entry = store.entries.get(text)
            if entry is not None and len(entry) == ENTRY.size:
                # The usual chunk, in one run: one look-up, one read, one checksum.
                _, checksum, place, number, _, _, _ = ENTRY.unpack(entry)
                form: Form = store.forms.by_number[number]
                if not form.layout:
                    meta = form.meta
                    buffers = target(meta)
                    if buffers is None:
                        return None
                    if store.data.readv(offset_of(place), buffers, meta.length) and checksum_of(buffers) == checksum:
                        store.counters.read += meta.length
                        return meta
            while True:
                job = self._job(text, target)
                if job is None:
                    return None
                for offset, buffers, nbytes in _runs(job):
                    if not store.data.readv(offset, buffers, nbytes):
                        break
                else:
                    self._verify(job)
                if job.whole:
                    store.counters.read += job.found.stream
                    return job.found.form.meta
                if store.entries.get(text) is job.entry:
                    break
        self._drop(job)
        return None

    def many(self, wanted: Sequence[tuple[str, Target]]) -> list[ChunkMeta | None]:
        """Chunks in the buffers that their targets answer, neighbours by one read each."""
        answers: list[ChunkMeta | None] = [None] * len(wanted)
        again: list[int] = []
        with self._store.epochs.reading():
            self._store.check()
            jobs: list[tuple[int, Job]] = []
            for number, (text, target) in enumerate(wanted):
                job = self._job(text, target)
                if job is not None:
                    jobs.append((number, job))
            self._read([job for _, job in jobs])
            for number, job in jobs:
                if job.whole:
                    self._store.counters.read += job.found.stream
                    answers[number] = job.found.form.meta
                else:
                    again.append(number)
        for number in again:
            answers[number] = self.into(*wanted[number])
        return answers

    def _job(self, text: str, target: Target) -> Job | None:
        store = self._store
        entry = store.find(text)
        if entry is None:
            return None
        found = read_entry(entry, store.forms)
        form = found.form
        if not form.layout:
            into = target(form.meta)
            return None if into is None else Job(text, entry, found, into, into)
        if not self._coding.reads(form.layout):
            store.counters.unreadable += 1  # kept for when its codec is back
            return None
        out = target(form.meta)
        return None if out is None else Job(text, entry, found, [memoryview(bytearray(found.stream))], out)

    def _read(self, jobs: list[Job]) -> None:
        """Read and verify; a job whose bytes are not what they should be is not `whole`."""
        runs: list[tuple[int, list[memoryview], int, list[Job]]] = []
        short: set[int] = set()
        pieces = sorted((
            (offset, buffers, nbytes, job) for job in jobs for offset, buffers, nbytes in _runs(job)
        ), key=lambda piece: piece[0])  # fmt: skip
        for offset, buffers, nbytes, job in pieces:
            if runs:
                begin, before, length, whose = runs[-1]
                gap = offset - begin - length
                if 0 <= gap <= _GAP and length + nbytes <= _TOGETHER and len(before) + len(buffers) < _BUFFERS:
                    if gap:
                        before.append(self._skipped[:gap])
                    before += buffers
                    whose.append(job)
                    runs[-1] = (begin, before, length + gap + nbytes, whose)
                    continue
            runs.append((offset, list(buffers), nbytes, [job]))
        for offset, buffers, nbytes, whose in runs:
            if not self._store.data.readv(offset, buffers, nbytes):
                short.update(map(id, whose))
        for job in jobs:
            if id(job) not in short:
                self._verify(job)

    def _verify(self, job: Job) -> None:
        found = job.found
        if checksum_of(job.into) != found.checksum:
            return
        if found.form.layout:
            whole = job.out[0] if len(job.out) == 1 else None
            decoded = memoryview(bytearray(found.form.meta.length)) if whole is None else whole
            try:
                self._coding.decode(found.form, found.blocks, job.into[0], decoded)
            except Damaged:
                return
            if whole is None:
                at = 0
                for piece in job.out:
                    piece[:] = decoded[at : at + len(piece)]
                    at += len(piece)
        job.whole = True

    def _drop(self, job: Job) -> None:
        """Damage is a miss and a counter, and the damaged chunk is removed, so that `contains` tells the truth."""
        store = self._store
        store.counters.corrupt += 1
        _log.warning("lmdb store %s: a chunk is damaged and was dropped", store.where)
        with suppress(LmsTiersError):
            store.remove((job.text,), only=job.entry)


def checksum_of(pieces: Sequence[memoryview]) -> int:
    """xxh3-64 of buffers, one after another."""
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0])
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece)
    return digest.intdigest()


def _runs(job: Job) -> list[tuple[int, list[memoryview], int]]:
    """Where in the file, into which buffers, and how many bytes, for each extent of a chunk's stored bytes."""
    left = job.found.stream
    extents = job.found.extents
    if not left:
        return []
    if len(extents) == 1:
        return [(extents[0][0] * PAGE, job.into, left)]
    runs: list[tuple[int, list[memoryview], int]] = []
    pending = list(job.into)
    for page, count in extents:
        size = min(left, count * PAGE)
        if not size:
            break
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


def one_buffer(buffer: Any) -> Target:
    """A target of one writable buffer.

    Raises
    ------
    InvalidBufferError
        When it is asked, where the buffer cannot take the chunk.
    """
    return lambda meta: [writable_bytes(buffer, meta.length)[: meta.length]]


def scattered(buffers: Sequence[Any], expected: ChunkMeta | None = None) -> Target:
    """A target of several, as `one_buffer`, for a chunk that is just as `expected`."""

    def target(meta: ChunkMeta) -> list[memoryview] | None:
        if expected is not None and meta != expected:
            return None
        views = [writable_bytes(buffer, 0) for buffer in buffers]
        room = sum(len(view) for view in views)
        if room < meta.length:
            raise InvalidBufferError(f"the destinations have {room} bytes, the chunk {meta.length}.")
        return front([view for view in views if len(view)], meta.length)

    return target


def fitting(target: Target, lent: Callable[[], object]) -> Target:
    """The same, which does not want a chunk that its buffers cannot take; calls `lent` where they are to be filled."""

    def asked(meta: ChunkMeta) -> list[memoryview] | None:
        try:
            buffers = target(meta)
        except InvalidBufferError:
            return None
        if buffers is not None:
            lent()
        return buffers

    return asked
