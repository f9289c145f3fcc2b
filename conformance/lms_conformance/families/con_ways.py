"""CON, by the optional methods: from many threads they keep the order that the main ones keep."""

from __future__ import annotations

from typing import Any

from lms_conformance.chunks import key
from lms_conformance.families.con import SMALL
from lms_conformance.marks import OVERLAPPED
from lms_conformance.races import Execution, Mix, explained
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import violate
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


class _Ways(Execution):
    """Knows the optional methods, one key at a time."""

    def one(self, backend: LMSBackendInterface, thread: int, kind: str, k: str, number: int) -> None:
        """One call on one key."""
        history, began = self.history, self.history.now()
        if kind in READS:
            history.add(thread, "get", k, self.value_of(k, _read(backend, kind, k)), began)
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
