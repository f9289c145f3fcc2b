"""LST and BAT, by number: nothing changes at a power of two, a page of a listing or the largest batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from lms_conformance import gauges
from lms_conformance.chunks import Chunk, difference, key
from lms_conformance.reading import expect_meta
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_conformance.zoo.memory import MemoryReference
from lms_tiers.interface import ChunkInfo, LMSBackendInterface
from lms_tiers.messages import ClientMetaMessage

MOST = 1 << 14

#: Numbers of keys at which listings are compared: about each power of two, and the pages that services like.
LOOKS = sorted(
    {n + d for k in range(11) for n in (1 << k,) for d in (-1, 0, 1)} | {1000, 1001, 2048, 4096, 8192, MOST + 1}
)
#: Those at which `scan` is asked as well: it may read every chunk.
SCANS = (256, 257, 1000, 1025, MOST + 1)


def _text(i: int) -> str:
    return f"chunk-{i * 0x9E3779B97F4A7C15 % 2**64:016x}"


def _chunk(i: int) -> Chunk:
    return Chunk(literal=i.to_bytes(4, "little") * (i % 3), kind=i % 8)


def _fill(trial: Trial, backend: Subject, begin: int, end: int) -> None:
    """By single puts next to the numbers that matter, by batches between them."""
    step = 1 if end - begin < 40 else 64
    for at in range(begin, end, step):
        part = range(at, min(at + step, end))
        if step == 1:
            backend.backend.put(_chunk(at).message(key(_text(at))), _chunk(at).data())
        else:
            backend.backend.put_many([(_chunk(i).message(key(_text(i))), _chunk(i).data()) for i in part])
        trial.ran(len(part))


def _each_once(found: list[str], want: set[str], what: str) -> None:
    if len(found) != len(want) or set(found) != want:
        missing, more = want.difference(found), set(found) - want
        expect(False, f"{what} to tell of each of {len(want)} keys, once",
               f"{len(found)}; missing {len(missing)}: {sorted(missing)[:2]}, too many {sorted(more)[:2]}")  # fmt: skip


@prop(
    "LST-07",
    "Around each power of two up to 2^14 keys list_keys, scan and stats know each key once, and get answers each.",
    since="1.1",
)
def _counts(trial: Trial) -> None:
    trial.allows(lambda: _count(trial), "listings about each power of two")


def _count(trial: Trial) -> None:
    backend = trial.open(capacity=512 * 1024 * 1024)
    held: set[str] = set()
    with trial.quiet(f"# put {MOST + 1} chunks of some bytes, and list them at {len(LOOKS)} numbers"):
        for count in LOOKS:
            begin = len(held)
            _fill(trial, backend, begin, count)
            held.update(_text(i) for i in range(begin, count))
            _each_once([k.to_string() for k in backend.backend.list_keys()], held, "list_keys")
            keys = backend.backend.stats().keys
            expect(keys in (None, count), f"stats().keys to be {count}", keys)
            if count in SCANS:
                infos = list(_told(trial, backend.backend.scan()))
                _each_once([info.key.to_string() for info in infos], held, "scan")
            trial.ran(2)
        numbers = {_text(i): i for i in range(count)}
        for info in infos:
            expect_meta(info.meta, _chunk(numbers[info.key.to_string()]), "scan")
        _all_there(trial, backend, count)


def _all_there(trial: Trial, backend: Subject, count: int) -> None:
    singles = [i for i in range(count) if i < 300 or i % 16 == 0]
    for i in singles:
        wrong = difference(_chunk(i), backend.backend.get(key(_text(i))))
        expect(wrong is None, f"get to answer the chunk put as number {i}", wrong)
        trial.ran(1)
    for at in range(0, count, 256):
        part = range(at, min(at + 256, count))
        for i, obj in zip(part, backend.backend.get_many([key(_text(i)) for i in part]), strict=True):
            wrong = difference(_chunk(i), obj)
            expect(wrong is None, f"get_many to answer the chunk put as number {i}", wrong)
        trial.ran(1)


def _told(trial: Trial, infos: Iterator[ChunkInfo]) -> Iterator[ChunkInfo]:
    """The same, and that the medium goes on is seen with each page of them."""
    for i, info in enumerate(infos):
        if i % 1000 == 0:
            trial.ran(1)
        yield info


#: Lengths of batches: about the limits of protocols and databases, and beyond them.
BATCHES = (255, 256, 1000, 1024, 2049, 4097)

#: Of those that a server may be asked for one by one, as many as that.
AT_ONCE = 2049

#: Lengths of batches that are copied out of another backend.
COPIES = (1024, 4097)


@prop(
    "BAT-08",
    "Batches of hundreds and thousands are whole: put_many, get_many, contains_many and get_many_into.",
    since="1.1",
)
def _batches(trial: Trial) -> None:
    trial.allows(lambda: _batch(trial), "batches of hundreds and thousands")


def _batch(trial: Trial) -> None:
    backend = trial.open(capacity=512 * 1024 * 1024)
    b = backend.backend
    stay = {f"stays{i}": _chunk(i + 1) for i in range(20)}
    for k, chunk in stay.items():
        b.put(chunk.message(key(k)), chunk.data())
    for size in BATCHES:
        # Each batch overwrites the one before it, with other chunks.
        texts = [_text(i) for i in range(size)]
        chunks = [_chunk(i + size) for i in range(size)]
        with trial.quiet(f"# batches of {size}: put_many, get_many, contains_many, contains_prefix, get_many_into"):
            keys = [key(text) for text in texts]
            b.put_many([(c.message(k), c.data()) for k, c in zip(keys, chunks, strict=True)])
            _answers(b.get_many(keys), chunks, f"get_many of {size}")
            asked = [*keys[: size // 2], key("absent"), *keys[size // 2 :]]
            want = [True] * (size // 2) + [False] + [True] * (size - size // 2)
            found = b.contains_many(asked)
            expect(found == want, f"contains_many of {size + 1} to miss one, in the middle", _falses(found))
            found_run = [b.contains_prefix(keys), b.contains_prefix(asked)]
            expect(
                found_run == [size, size // 2], f"contains_prefix of {size} to count {size} and {size // 2}", found_run
            )
            trial.ran(4)
            if size > AT_ONCE:
                continue
            rooms = [bytearray(len(c)) for c in chunks]
            metas = b.get_many_into([(k, [room]) for k, room in zip(keys, rooms, strict=True)])
            expect(len(metas) == size, f"{size} answers of get_many_into", len(metas))
            for meta, room, chunk in zip(metas, rooms, chunks, strict=True):
                expect_meta(meta, chunk, "get_many_into")
                expect(room == chunk.bytes(), f"get_many_into to fill in {chunk!r}", bytes(room))
            trial.ran(1)
    for size in COPIES:
        _copied(trial, b, size)
    for k, chunk in stay.items():
        backend.expect_chunk(k, chunk, "what was there before the batches, and is in none of them")


def _copied(trial: Trial, b: LMSBackendInterface, size: int) -> None:
    source, messages = MemoryReference(), list[ClientMetaMessage]()
    for i in range(size):
        messages.append(_chunk(i + 2).message(key(_text(i))))
        source.put(messages[-1], _chunk(i + 2).data())
    with trial.quiet(f"# put_from of {size}"):
        held = b.put_from(messages, source)
        expect(held == [True] * size, f"put_from of {size} that are all there to say so", _falses(held))
        keys = [key(_text(i)) for i in range(size)]
        _answers(b.get_many(keys), [_chunk(i + 2) for i in range(size)], f"get_many after put_from of {size}")
        trial.ran(2)


def _answers(found: Sequence[object], chunks: Sequence[Chunk], what: str) -> None:
    expect(len(found) == len(chunks), f"{what}: {len(chunks)} answers", len(found))
    for i, (obj, chunk) in enumerate(zip(found, chunks, strict=True)):
        wrong = difference(chunk, obj)  # type: ignore[arg-type]  # of get_many
        expect(wrong is None, f"item {i} of {what} to be {chunk!r}", wrong)


def _falses(found: list[bool]) -> str:
    first = found.index(False) if False in found else None
    return f"{len(found)} answers, of them {found.count(False)} False, the first at {first}"


@prop(
    "RMV-08",
    "remove_many forgets each key of batches of hundreds and thousands, and no other.",
    since="1.1",
    needs=["remove"],
)
def _removals(trial: Trial) -> None:
    trial.allows(lambda: _remove(trial), "remove_many of hundreds and thousands")


def _remove(trial: Trial) -> None:
    backend = trial.open(capacity=512 * 1024 * 1024)
    b = backend.backend
    stay = {f"stays{i}": _chunk(i + 1) for i in range(20)}
    for k, chunk in stay.items():
        b.put(chunk.message(key(k)), chunk.data())
    for size in (1, 2, 257, 1025, 4097):
        began = time.monotonic()
        with trial.quiet(f"# put and remove {size} chunks in one batch each"):
            keys = [key(text) for text in map(_text, range(size))]
            b.put_many([(_chunk(i).message(k), _chunk(i).data()) for i, k in enumerate(keys)])
            b.remove_many(keys)
            left = b.contains_many(keys)
            expect(not any(left), f"none of {size} chunks after remove_many of all", f"{sum(left)} of them")
            _each_once([k.to_string() for k in b.list_keys()], set(stay), "list_keys after remove_many")
            trial.ran(4)
        if size > 1000 and time.monotonic() - began > trial.profile.example_seconds * gauges.busy():
            break  # a server that is asked for each of them takes as long again for every one more
    backend.expect_model(stay)
