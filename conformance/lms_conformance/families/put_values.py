"""PUT, by structure: values that look like nothing, like an end or like each other are values like any other."""

from __future__ import annotations

import random
from collections.abc import Iterable

from lms_conformance.chunks import KIB, MIB, Chunk
from lms_conformance.lookalikes import SENTINELS, lookalikes, structured, texts
from lms_conformance.programs import Op
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.ways import Ways

#: Sizes of which every structure is tried: around the powers of two at which formats change their mind, and pages.
SIZES = (1, 3, 8, 16, 17, 64, 255, 256, 257, 1000, 4095, 4096, 4097, 16385, 65537, 140_000, 262145)


def _store(trial: Trial, values: list[Chunk], comment: str) -> None:
    """All beside each other, by batches and then by put, so that each overwrites another; and then all read."""
    trial.anew()
    subject = Ways(trial.open(capacity=256 * MIB))
    with trial.quiet(f"# put and get {len(values)} values: {comment}"):
        for turn in range(2):
            items = [(f"k{(i + turn) % len(values)}", chunk) for i, chunk in enumerate(values)]
            if turn:
                for k, chunk in items:
                    subject.put(Op("put", (k,), (chunk,)))
            else:
                for begin in range(0, len(items), 16):
                    ks, chunks = zip(*items[begin : begin + 16], strict=True)
                    subject.put_many(Op("put_many", ks, chunks))
            for k, chunk in items:
                subject.subject.expect_chunk(k, chunk)
    trial.release(subject.subject)


def _literal(values: Iterable[bytes], kind: int) -> list[Chunk]:
    return [Chunk(literal=data, kind=(kind + i) % 8) for i, data in enumerate(values)]


@prop(
    "PUT-14",
    "Values with structure (constant, sparse, repeated, with holes) come back exactly, of every size.",
    since="1.1",
)
def _structure(trial: Trial) -> None:
    for at, size in enumerate((*SIZES, MIB + 1)):
        names = [name for name, _ in structured(size)]
        values = [Chunk(like=name, size=size, kind=(at + i) % 8) for i, name in enumerate(names)]
        _store(trial, values[:: 1 if size < MIB else 3], f"constant, sparse and repeated ones of {size} bytes")


@prop(
    "PUT-15",
    "Values that look like an end, like nothing, like something removed or encoded come back exactly.",
    since="1.1",
)
def _sentinels(trial: Trial) -> None:
    noise = random.Random(5).randbytes(300)
    _store(trial, _literal(SENTINELS, 0), "what formats take for an end, or for nothing")
    _store(trial, _literal((s + noise for s in SENTINELS), 1), "the same with bytes after it")
    _store(trial, _literal((noise + s for s in SENTINELS), 2), "the same with bytes before it")
    _store(trial, _literal((s.ljust(1024, b"\0") for s in SENTINELS), 3), "the same with zeros after it")


@prop(
    "PUT-16",
    "Values that a short look takes for equal (heads, tails, sums, CRCs, digests, samples) are told apart.",
    since="1.1",
)
def _looks(trial: Trial) -> None:
    for size in (64, 100, 4096, 4097, 20_000, 65_537, 300 * KIB):
        names = ["itself", *(name for name, _ in lookalikes(bytes(size))), "Adler-32, one", "Adler-32, two"]
        values = [Chunk(like=name, size=size) for name in names]
        _store(trial, values, f"of {size} bytes, alike in all but little")
        _in_place(trial, values)
    pairs = _literal((text.encode() for found in texts().values() for pair in found for text in pair), 0)
    _store(trial, pairs, "with equal digests")
    _in_place(trial, [Chunk(literal=chunk.bytes()) for chunk in pairs])


def _in_place(trial: Trial, values: list[Chunk]) -> None:
    """Each overwrites the one before it under one key, and the first each of them."""
    trial.anew()
    backend = trial.open(capacity=256 * MIB)
    with trial.quiet(f"# overwrite one key with {len(values)} values, each like the one before it"):
        for chunk in values:
            backend.put("a", chunk)
            backend.expect_chunk("a", chunk, "the newest put, which is like the one before it")
    trial.release(backend)
