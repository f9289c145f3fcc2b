"""EVI, besides: nothing expires, batches are uses in their order, and what was evicted is gone by every way to ask."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from functools import partial
from typing import Any

from lms_conformance.chunks import Chunk, key
from lms_conformance.clock import moved_clock
from lms_conformance.families.evi import CAPACITY, SIZE, Order, chunk_of, fits_of, put_in
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_tiers.errors import CapacityError, InvalidChunkError

#: Seconds by which the clocks are moved: more than a year.
_FAR = 4e7


@prop(
    "EVI-08",
    "Nothing expires: chunks stay, and the newer put wins, however far the clock has moved on or is put back.",
    since="1.1",
)
def _lies(trial: Trial) -> None:
    backend = trial.open()
    model = {f"k{i}": Chunk(3 + i, 300 * i, i) for i in range(4)}
    for k, chunk in model.items():
        backend.put(k, chunk)
    with moved_clock(backend.backend) as clock:
        for i, wall in enumerate((_FAR, -_FAR)):
            clock.wall, clock.monotonic = wall, _FAR * (i + 1)
            trial.record(f"# the wall clock of the backend's modules is at {wall:+g} s, the monotonic one later still")
            backend.expect_model(model, ["absent"])
            for k in ("k1", f"new{i}"):
                model[k] = Chunk(20 + i, 70 + i, 2)
                backend.put(k, model[k])
            backend.flush()
            backend.expect_model(model, ["absent"])
        trial.release(backend)


class _Batches(Order):
    """Keys of a batch are a prefix chain: among themselves they may leave in any order."""

    def __init__(self, policy: str | None) -> None:
        super().__init__(policy)
        self._batch: dict[str, int] = {}
        self._count = 0

    def together(self, ks: list[str]) -> None:
        """They were used by one call."""
        self._count += self.lru
        self._batch.update((k, self._count) for k in ks)

    def put(self, k: str) -> None:
        """By itself."""
        super().put(k)
        if self.lru:
            self._batch.pop(k, None)

    def hit(self, k: str) -> None:
        """By itself."""
        super().hit(k)
        if self.lru:
            self._batch.pop(k, None)

    def settle(self, held: Iterable[str], least: int) -> None:
        """See `Order`; of a batch those that left are the first."""
        there = set(held)
        runs = itertools.groupby(self.keys, key=lambda k: self._batch.get(k, k))
        self.keys = [k for _, run in runs for k in sorted(run, key=there.__contains__)]
        super().settle(there, least)


@prop(
    "EVI-09",
    "A batch is a use of each of its chunks, and touch one in the order told; what was refused, or missed, is none.",
    since="1.1",
    needs=["policy", "capacity"],
    marks=["evicted"],
)
def _batches(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    order, fits = _Batches(trial.caps.policy), fits_of(trial)
    b, fresh = backend.backend, 0

    def more(n: int) -> None:
        nonlocal fresh
        for _ in range(n):
            put_in(backend, order, f"k{fresh}")
            order.settle(backend.keys(), fits)
            fresh += 1

    def put_many(ks: list[str]) -> None:
        b.put_many([(chunk_of(k).message(key(k)), chunk_of(k).data()) for k in ks])
        for k in ks:
            order.put(k)
        order.together(ks)

    def overwrite(ks: list[str]) -> None:
        if order.lru:  # where chunks go by arrival this is no use, and what is being put is not the next victim
            put_many(ks)

    def used(name: str, ks: list[str]) -> None:
        getattr(b, name)([key(k) for k in ks])
        for k in ks:
            if k in order.keys:
                order.hit(k)
        if name != "touch":  # that one tells an order
            order.together(ks)

    def refused(k: str) -> None:
        message = chunk_of(k).message(key(k))
        message.length += 1
        backend.rejects(InvalidChunkError, lambda: b.put(message, chunk_of(k).data()), "a put of a wrong length")

    with trial.quiet("# batches of the next victims are read, touched, overwritten, refused; then others are put"):
        more(2 * fits)
        steps: list[Any] = [
            lambda ks: used("get_many", [ks[3], ks[0], "absent", ks[1]]),
            lambda ks: overwrite([ks[0], ks[2]]),
            lambda ks: used("touch", [ks[2], ks[0], "absent"]),
            lambda ks: refused(ks[0]),
            lambda ks: used("get_many", [ks[1], ks[0], ks[1]]),
        ]
        for step in steps:
            step(list(order.keys))
            trial.ran(1)
            backend.flush()
            order.settle(backend.keys(), fits)
            more(3)
        used("touch", [order.keys[i] for i in (5, 1, 3, 2)])
        more(2 * fits)  # until what was touched has left
        batch = [f"k{fresh + i}" for i in range(2 * trial.harness.holds(CAPACITY) // SIZE)]
        put_many(batch)
        backend.flush()
        order.settle(backend.keys(), fits)
        backend.expect_chunk(batch[-1], chunk_of(batch[-1]), "the last of a batch that is larger than the capacity")
    if order.gone:
        trial.mark("evicted")


@prop(
    "EVI-10",
    "What was evicted is gone by every way to ask, in the books too; what was lent of it stays as long as it is lent.",
    since="1.1",
    needs=["evicts", "capacity"],
    marks=["evicted"],
)
def _gone(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    b, count = backend.backend, 3 * trial.harness.holds(CAPACITY) // SIZE
    with trial.quiet(f"# {count} chunks of {SIZE} bytes, three times the capacity, while the first one is lent"):
        backend.put("k0", chunk_of("k0"))
        with b.view(key("k0")) as lent:
            for i in range(1, count):
                with contextlib.suppress(CapacityError):  # all that is lent may stay, and take room
                    backend.put(f"k{i}", chunk_of(f"k{i}"))
            if lent is not None:
                found = b"".join(bytes(memoryview(piece).cast("B")) for piece in lent.buffers)
                expect(found == chunk_of("k0").bytes(), "the bytes lent to stay, though others were put", "changed")
        backend.flush()
        listed = backend.keys()
        gone = [k for k in (f"k{i}" for i in range(count)) if k not in listed]
        if gone:
            trial.mark("evicted")
        _by_every_way(backend, gone[:6], listed)
        for k in gone[:3]:
            backend.put(k, Chunk(5, 100, 2))
            backend.expect_chunk(k, Chunk(5, 100, 2), "the chunk put again after its eviction")


def _by_every_way(backend: Subject, gone: list[str], listed: list[str]) -> None:
    b, keys = backend.backend, [key(k) for k in gone]
    room = bytearray(b"\xa5" * SIZE)
    found: dict[str, Any] = {
        "get_many": [obj for obj in b.get_many(keys) if obj is not None],
        "contains_many": [told for told in b.contains_many(keys) if told],
        "contains_prefix": b.contains_prefix(keys),
        "stored_bytes": [size for size in map(b.stored_bytes, keys) if size is not None],
        "get_into": [meta for meta in (b.get_into(k, room) for k in keys) if meta is not None],
        "get_many_into": [m for m in b.get_many_into([(k, [room]) for k in keys]) if m is not None],
        "get_tensor": [t for t in map(partial(b.get_tensor), keys) if t is not None],
    }
    wrong = {name: answer for name, answer in found.items() if answer}
    expect(not wrong, f"nothing of {gone}, which were evicted and are not listed", wrong)
    expect(room == b"\xa5" * SIZE, "a buffer for what was evicted untouched", "written to")
    scanned = sorted(info.key.to_string() for info in b.scan())
    expect(scanned == listed, f"scan to yield what is listed, {len(listed)} keys", f"{len(scanned)}: {scanned[:8]}")
    counted = b.stats().keys
    expect(counted in (None, len(listed)), f"stats().keys to be {len(listed)}, as listed", counted)
    backend.trial.ran(9)
