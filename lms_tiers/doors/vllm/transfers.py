"""Chunks between rows of vLLM's primary tier and the store, in parts that several threads move at one time.

A row of the primary tier is one chunk: padding and the parts of all workers included. Nothing here knows vLLM.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from lms_tiers.doors.jobs import Jobs, Queue, Result
from lms_tiers.doors.lent import Lent
from lms_tiers.errors import DeadlineExceededError, LmsTiersError
from lms_tiers.keys import OpaqueKey
from lms_tiers.messages import ChunkMeta
from lms_tiers.namespaced import Namespaced
from lms_tiers.request import RequestContext

_log = logging.getLogger(__name__)

#: Bytes of one part: enough that a part costs little beside its bytes, and little enough to share among threads.
_PART: Final = 8 << 20
#: Stores at one time: one writes, which only one can do to a file, while another is checked and gets its place.
_STORES: Final = 2
#: Seconds until a drain that goes on says so.
_PATIENCE: Final = 5.0

_Steps = Generator[tuple[Sequence[int], int], None, None]


@dataclass(frozen=True, slots=True)
class Moved:
    """How a job of the engine's ended.

    Attributes
    ----------
    job : int
        The engine's own number.
    load : bool
    keys : tuple of bytes
    succeeded : tuple of bool
        For each of `keys`: it was moved, or (of a store) is held already.
    seconds : float
        Of the part that took longest.
    nbytes : int
        Moved; chunks that were held already count nothing.
    """

    job: int
    load: bool
    keys: tuple[bytes, ...]
    succeeded: tuple[bool, ...]
    seconds: float
    nbytes: int

    @property
    def whole(self) -> bool:
        """Whether every key succeeded."""
        return all(self.succeeded)

    def of(self, succeeded: bool) -> list[bytes]:
        """The keys that did, or those that did not."""
        return [key for key, did in zip(self.keys, self.succeeded, strict=True) if did is succeeded]


@dataclass(eq=False, slots=True)
class _Job:
    number: int
    load: bool
    keys: tuple[bytes, ...]
    parts: int = 0
    succeeded: list[bool] = field(default_factory=list)
    seconds: float = 0.0
    nbytes: int = 0


class Transfers:
    """Loads and stores under way. `load`, `store` and `poll` wait for nothing.

    Parameters
    ----------
    name : str
    store : Namespaced
        Keys are the engine's own, as hexadecimal text.
    rows : memoryview
        The primary tier, as bytes in one dimension.
    meta : ChunkMeta
        What a row is stored as; its length is that of a row.
    workers : int
    contexts : bool
        Whether batch calls of the store take a context.
    release : callable
        Gets keys of a load, when it has ended: what was kept for it may go.
    """

    def __init__(
        self, name: str, store: Namespaced, rows: memoryview, meta: ChunkMeta, *, workers: int,
        contexts: bool, release: Callable[[Sequence[bytes]], None],
    ) -> None:  # fmt: skip
        self._name: Final = name
        self._store: Final = store
        self._rows: Final = rows
        self._meta: Final = meta
        self._contexts: Final = contexts
        self._release: Final = release
        self._part: Final = max(1, _PART // max(1, meta.length))
        # A store that is no tiered one is a server: it takes as many at one time as there are.
        self._jobs: Final = Jobs(name, workers=workers, stores=_STORES if contexts else None)

    def load(self, number: int, keys: Sequence[bytes], slots: Sequence[int], request: str) -> None:
        """Read chunks into rows; nobody else looks at these until the job's result was given."""
        self._submit(_Job(number, True, tuple(keys)), slots, request)

    def store(self, number: int, keys: Sequence[bytes], slots: Sequence[int], request: str) -> None:
        """Store rows, which stay as they are until the job's result was given."""
        self._submit(_Job(number, False, tuple(keys)), slots, request)

    def _submit(self, job: _Job, slots: Sequence[int], request: str) -> None:
        queue, steps = (Queue.LOAD, self._loading) if job.load else (Queue.STORE, self._storing)
        context: dict[str, Any] = {"context": RequestContext(request)} if self._contexts else {}
        job.succeeded = [False] * len(job.keys)
        starts = range(0, len(job.keys), self._part) or range(1)  # one part of nothing, so that there is a result
        job.parts = len(starts)
        for at in starts:
            keys, of_them = job.keys[at : at + self._part], list(slots[at : at + self._part])
            self._jobs.submit(queue, partial(steps, keys, of_them, context), len(keys), (job, at))

    @contextmanager
    def _lent(self, slots: Sequence[int]) -> Iterator[list[memoryview]]:
        """Rows, for the block only: a view that is left would keep vLLM's memory from being given back."""
        length = self._meta.length
        for slot in slots:
            if not 0 <= slot < self._rows.nbytes // length:
                raise IndexError(f"slot {slot} is not one of {self._rows.nbytes // length}")
        lent = [self._rows[slot * length : (slot + 1) * length] for slot in slots]
        try:
            yield lent
        finally:
            for row in lent:
                row.release()

    def _loading(self, keys: Sequence[bytes], slots: list[int], context: dict[str, Any]) -> _Steps:
        named = [OpaqueKey(key.hex()) for key in keys]
        try:
            with self._lent(slots) as rows:
                wanted = [(key, (row,)) for key, row in zip(named, rows, strict=True)]
                found = self._store.get_many_into(wanted, expected=[self._meta] * len(named), **context)
            good = [at for at, meta in enumerate(found) if meta == self._meta]
            yield good, len(good) * self._meta.length
        finally:
            self._release(keys)

    def _storing(self, keys: Sequence[bytes], slots: list[int], context: dict[str, Any]) -> _Steps:
        named = [OpaqueKey(key.hex()) for key in keys]
        held = self._store.contains_many(named)
        yield [at for at, there in enumerate(held) if there], 0
        wanted = [at for at, there in enumerate(held) if not there]
        try:
            with self._lent([slots[at] for at in wanted]) as rows:
                of_rows = zip(wanted, rows, strict=True)
                source = Lent({named[at].to_string(): (self._meta, (row,)) for at, row in of_rows})
                stored = self._store.put_from([self._meta.message(named[at]) for at in wanted], source, **context)
        except LmsTiersError as error:
            # Some are stored and some are not: what the store says of each is the truth.
            _log.info("%s: a batch of stores: %s: %s", self._name, type(error).__name__, error)
            there = self._store.contains_many([named[at] for at in wanted])
            yield [at for at, held in zip(wanted, there, strict=True) if held], 0
        else:
            good = [at for at, took in zip(wanted, stored, strict=True) if took]
            yield good, len(good) * self._meta.length

    def poll(self) -> list[Moved]:
        """Jobs whose last part has ended, each once."""
        moved = []
        for result in self._jobs.poll():
            if result.tag is None:
                continue
            job: _Job
            job, at = result.tag
            self._gather(job, at, result)
            if not job.parts:
                moved.append(Moved(job.number, job.load, job.keys, tuple(job.succeeded), job.seconds, job.nbytes))
        return moved

    @staticmethod
    def _gather(job: _Job, at: int, result: Result) -> None:
        job.parts -= 1
        job.succeeded[at : at + len(result.succeeded)] = result.succeeded
        job.seconds = max(job.seconds, result.seconds)
        job.nbytes += result.nbytes

    def behind(self, call: Callable[[], None]) -> None:
        """Call something that takes its time, when no load waits."""

        def work() -> _Steps:
            call()
            yield (), 0

        self._jobs.submit(Queue.STORE, work, 0)

    def counts(self) -> tuple[int, int]:
        """How many parts wait for a thread, and how many are moved now."""
        return self._jobs.counts()

    def drain(self) -> None:
        """Return when no row is in use any more, however long it takes."""
        while True:
            try:
                self._jobs.drain(_PATIENCE)
            except DeadlineExceededError as error:
                _log.warning("%s: %s It is waited on: rows are in use.", self._name, error)
            else:
                return

    def close(self, timeout: float | None) -> None:
        """Drop what waits, wait for what runs; no row is in use any more (else `DeadlineExceededError`)."""
        self._jobs.close(timeout)
