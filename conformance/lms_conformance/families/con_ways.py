"""CON, by the optional methods: from many threads they keep the order that the main ones keep."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

from lms_conformance.buffers import FILL
from lms_conformance.chunks import Chunk, key
from lms_conformance.families.con import SMALL
from lms_conformance.marks import OVERLAPPED, Overlap
from lms_conformance.preempt import Turns, outermost, own_files
from lms_conformance.races import Execution, Mix, explained
from lms_conformance.reading import flat, meta_of
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_conformance.zoo.memory import MemoryReference
from lms_tiers.interface import LMSBackendInterface

READS = ("get_into", "get_scattered", "get_many_into", "view")
ROOM = max(SMALL)


def _read(backend: LMSBackendInterface, kind: str, k: str) -> Any:
    """What a way to read answers, as `get` would answer it."""
    room = bytearray(ROOM)
    pieces = [memoryview(room)[:8], memoryview(room)[8:]]
    match kind:
        case "get_into":
            meta = backend.get_into(key(k), room)
        case "get_scattered":
            meta = backend.get_scattered(key(k), pieces)
        case "get_many_into":
            meta = backend.get_many_into([(key(k), pieces)])[0]
        case _:
            with backend.view(key(k)) as view:
                meta = None if view is None else view.meta
                data = b"" if view is None else b"".join(view.buffers)
                room[: len(data)] = data
    if meta is not None and meta.length > ROOM:
        violate(f"{kind}({k!r}) to answer the metadata of a chunk that was put", meta)
    return None if meta is None else meta.memory_obj(bytes(room[: meta.length]))


def _into_tensor(backend: LMSBackendInterface, k: str, chunks: Mapping[int, Chunk]) -> Any:
    """What `get_tensor` wrote into `out`: as much as the chunk has that begins so, of those put, and its metadata."""
    import torch

    out = torch.full((ROOM,), FILL, dtype=torch.uint8, device=getattr(backend, "device", "cpu"))
    if backend.get_tensor(key(k), out) is None:
        return None
    data = flat(out)
    begun = chunks.get(int.from_bytes(data[:8], "little"))
    return meta_of(begun or Chunk(literal=data)).memory_obj(data[: ROOM if begun is None else len(begun)])


class _Ways(Execution):
    """Knows the optional methods, one key at a time."""

    def one(self, backend: LMSBackendInterface, thread: int, kind: str, k: str, number: int) -> None:
        """One call on one key."""
        history, began = self.history, self.history.now()
        if kind in READS:
            history.add(thread, "get", k, self.value_of(k, _read(backend, kind, k)), began)
        elif kind == "get_tensor":
            history.add(thread, "get", k, self.value_of(k, _into_tensor(backend, k, self.chunks)), began)
        elif kind in ("contains_many", "contains_prefix"):
            found = backend.contains_many([key(k)])[0] if kind == "contains_many" else backend.contains_prefix([key(k)])
            history.add(thread, "contains", k, int(found), began)
        elif kind == "remove_many":
            backend.remove_many([key(k)])
            history.add(thread, "remove", k, None, began)
        elif kind == "put_from":
            chunk, source = self.chunk(number, k), MemoryReference()
            source.put(chunk.message(key(k)), chunk.data())
            began = history.now()
            backend.put_from([chunk.message(key(k))], source)
            history.add(thread, "put", k, number if k == self.mix.keys[0] else number + 10_000, began)
        else:
            super().one(backend, thread, kind, k, number)


@prop(
    "CON-08",
    "Reads into buffers and views beside puts answer one put's chunk, whole, in an order that explains every answer.",
    since="1.1",
    marks=[OVERLAPPED],
)
def _reading(trial: Trial) -> None:
    kinds = ("put", "put", "put_from", *READS)
    mix = Mix(kinds, ("a",), 3, 4, SMALL, preempt=True, execution=_Ways)
    explained(trial, mix, trial.profile.rounds)
    tensors = Mix(("put", "put", "get_tensor", "get_tensor"), ("a",), 3, 4, SMALL, preempt=True, execution=_Ways)
    explained(trial, tensors, max(8, trial.profile.rounds // 2))


@prop(
    "CON-09",
    "remove_many, contains_many and contains_prefix beside puts and reads are linearizable, too.",
    since="1.1",
    marks=[OVERLAPPED],
    needs=["remove"],
)
def _forgetting(trial: Trial) -> None:
    kinds = ("put", "put", "put_from", "remove_many", "remove_many", "contains_many", "contains_prefix", "get", "view")
    mix = Mix(kinds, ("a", "b"), 3, 4, SMALL, preempt=True, execution=_Ways)
    explained(trial, mix, trial.profile.rounds)


@prop(
    "CON-10",
    "When all threads are done the books agree with the list: stats, scan, sizes, and every way to ask in a batch.",
    since="1.1",
    marks=[OVERLAPPED],
)
def _books(trial: Trial) -> None:
    effort = trial.profile
    for attempt in trial.rounds(effort.rounds, effort.least, effort.example_seconds):
        trial.anew()
        backend, overlap = trial.open(), Overlap(trial)
        seed = trial.rng.randrange(1 << 30)
        files = outermost(backend.backend) if attempt % 2 else own_files(backend.backend)
        turns = Turns(files, 3, random.Random(seed))
        with trial.quiet("# three threads put and forget keys in all ways; then the books are compared with the list"):
            works = [partial(_use, trial, backend.backend, t, seed, turns, overlap) for t in range(3)]
            trial.threads(works, 60, f"round {attempt}")
            trial.ran(12)
            _agree(backend)


_POOL = ("a", "b", "c", "d")


def _use(trial: Trial, b: LMSBackendInterface, thread: int, seed: int, turns: Turns, overlap: Overlap) -> None:
    rng = random.Random(f"{seed}:{thread}")
    with turns.of(thread), overlap.call(thread):
        for i in range(4):
            one, other = rng.sample(_POOL, 2)
            chunk = Chunk(100 * thread + i, 30 + 11 * thread)
            message, kind = chunk.message(key(one)), rng.random()
            if trial.caps.remove and kind < 0.2:
                b.remove(key(one))
            elif trial.caps.remove and kind < 0.35:
                b.remove_many([key(one), key(other)])
            elif kind < 0.55:
                b.put_many([(message, chunk.data()), (chunk.message(key(other)), chunk.data())])
            else:
                b.put(message, chunk.data())


def _agree(backend: Subject) -> None:
    listed, b = backend.keys(), backend.backend
    keys = [key(k) for k in _POOL]
    held = [k in listed for k in _POOL]
    counted = b.stats().keys
    expect(counted in (None, len(listed)), f"stats().keys to be {len(listed)}, as listed", counted)
    told = b.contains_many(keys)
    expect(told == held, f"contains_many to agree with the list, {listed}", told)
    found = [obj is not None for obj in b.get_many(keys)]
    expect(found == held, f"get_many to agree with the list, {listed}", found)
    scanned = {info.key.to_string(): info for info in b.scan()}
    expect(sorted(scanned) == listed, f"scan to yield what is listed, {listed}", sorted(scanned))
    for k, info in scanned.items():
        obj = b.get(key(k))
        length = None if obj is None else obj.length
        expect(info.meta.length == length, f"scan to tell the length of {k!r}, {length}", info.meta.length)
        stored, most = b.stored_bytes(key(k)), b.reserve_bytes(info.meta.length)
        expect(stored is None or 0 <= stored <= most, f"stored_bytes of {k!r} from 0 to {most}", stored)
