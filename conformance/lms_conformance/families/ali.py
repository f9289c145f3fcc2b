"""ALI: what `get` returned stays as it was, and what was put stays as it was put."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lms_conformance.chunks import KIB, Chunk, key, raw, show
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_tiers.messages import LMSMemoryObj

SIZES = (16, 5000, 300 * KIB)


def _unchanged(trial: Trial, disturb: Callable[[Subject, Chunk], None], what: str) -> None:
    for size in SIZES:
        trial.anew()
        backend = trial.open()
        chunk = Chunk(3, size)
        backend.put("a", chunk)
        held = [backend.get("a"), backend.get("a")]
        many = backend.get_many(["a"])
        disturb(backend, chunk)
        for obj in (*held, *many):
            _still(obj, chunk, what)


def _still(obj: LMSMemoryObj | None, chunk: Chunk, what: str) -> None:
    if obj is None:
        violate("a chunk", "None")
    try:
        same = raw(obj) == chunk.bytes()
    except (ValueError, BufferError) as error:
        violate(f"data in hand to stay readable after {what}", f"{type(error).__name__}: {error}")
    expect(same, f"data in hand to stay as it was after {what}", show(raw(obj)), "# the data of the first get changed")


@prop("ALI-01", "Data that get returned is unchanged after the key is overwritten.")
def _overwrite(trial: Trial) -> None:
    def disturb(backend: Subject, chunk: Chunk) -> None:
        for new in (Chunk(4, len(chunk)), Chunk(5, len(chunk) - 1), Chunk(6, 1)):
            backend.put("a", new)
            backend.get("a")

    _unchanged(trial, disturb, "an overwrite")


@prop(
    "ALI-02", "Data that get returned is unchanged after the key is removed and its room used again.", needs=["remove"]
)
def _remove(trial: Trial) -> None:
    def disturb(backend: Subject, chunk: Chunk) -> None:
        backend.remove("a")
        for i in range(8):
            backend.put(f"new{i}", Chunk(10 + i, len(chunk)))

    _unchanged(trial, disturb, "a remove and new puts")


@prop("ALI-03", "Data that get returned is unchanged after close.")
def _close(trial: Trial) -> None:
    def disturb(backend: Subject, chunk: Chunk) -> None:
        backend.close()

    _unchanged(trial, disturb, "close")


@prop("ALI-04", "Data that get returned cannot be used to change what is stored: it is read-only, or the caller's own.")
def _write_through(trial: Trial) -> None:
    for size in SIZES:
        trial.anew()
        backend = trial.open()
        backend.put("a", Chunk(3, size))
        obj = backend.get("a")
        if obj is None:
            violate("a chunk", "None")
        view = memoryview(obj.data)
        if not view.readonly:
            trial.record("memoryview(backend.get(key('a')).data)[:] = bytes(…)")
            view.cast("B")[:] = bytes(size)
        backend.expect_chunk(
            "a", Chunk(3, size), "the chunk as it was put, though the reader wrote into its own answer"
        )


@prop("ALI-05", "Data in hand is unchanged by reading other keys.")
def _other_reads(trial: Trial) -> None:
    def disturb(backend: Subject, chunk: Chunk) -> None:
        for i in range(8):
            backend.put(f"new{i}", Chunk(10 + i, len(chunk)))
            backend.get(f"new{i}")
        backend.get_many([f"new{i}" for i in range(8)])

    _unchanged(trial, disturb, "other gets")


@prop("ALI-06", "A buffer that is no bytearray stays the caller's: writing to it after put changes nothing stored.")
def _callers_buffer(trial: Trial) -> None:
    for size in SIZES:
        trial.anew()
        backend = trial.open()
        owner = bytearray(Chunk(3, size).bytes())
        array = np.frombuffer(Chunk(3, size).bytes(), dtype=np.uint8).copy()
        backend.put("a", Chunk(3, size), memoryview(owner), "memoryview(owner)")
        backend.put("b", Chunk(3, size), array, "array")
        trial.record("# the caller zeroes its buffers")
        owner[:] = bytes(size)
        array[:] = 0
        for k in "ab":
            backend.expect_chunk(k, Chunk(3, size), "the bytes as they were when put was called")


@prop(
    "ALI-07",
    "Data in hand is unchanged when its chunk is evicted and the room is used again.",
    needs=["evicts", "capacity"],
    marks=["evicted in hand"],
)
def _evict(trial: Trial) -> None:
    size = 256 * KIB
    backend = trial.open(capacity=8 * 1024 * KIB)
    held: list[tuple[Chunk, LMSMemoryObj]] = []
    with trial.quiet(
        "for i in range(96):\n    backend.put(Chunk(i, 262144).message(key(f'k{i}')), Chunk(i, 262144).data())"
    ):
        for i in range(96):
            backend.put(f"k{i}", Chunk(i, size))
            if i % 4 == 0 and (obj := backend.get(f"k{i}")) is not None:
                held.append((Chunk(i, size), obj))
    expect(len(held) >= 12, "most chunks to be readable right after their put", f"{len(held)} of 24")
    if not all(backend.backend.contains(key(f"k{i}")) for i in range(0, 96, 4)):
        trial.mark("evicted in hand")
    for chunk, obj in held:
        _still(obj, chunk, "its eviction")


@prop("ALI-08", "The metadata message of a put stays the caller's: changing it afterwards changes nothing stored.")
def _message(trial: Trial) -> None:
    backend = trial.open()
    chunk = Chunk(3, 100, 1)
    message = chunk.message(key("a"))
    backend.put("a", chunk, message=message)
    trial.record("# the caller changes and reuses the message object")
    other = Chunk(4, 50, 7).message(key("b"))
    message.key, message.length, message.fmt, message.dtype, message.shape = (
        other.key, other.length, other.fmt, other.dtype, other.shape,
    )  # fmt: skip
    backend.expect_model({"a": chunk}, ["b"])
