"""BAT: whatever an item of a batch is refused for, the batch is the sequence of its items."""

from __future__ import annotations

from functools import partial
from typing import Any

from lms_conformance.chunks import MIB, Chunk, DuckKey, difference, key
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_tiers.errors import InvalidChunkError, InvalidKeyError, LmsTiersError, ValueTooLargeError

#: Larger limits are not tried: a chunk beyond them would take too much memory.
_MOST = 96 * MIB


def too_large(trial: Trial) -> int | None:
    """A length that a backend has to refuse; None where none is known, or one that is too dear."""
    limit = trial.caps.max_value_bytes
    return None if limit is None or limit >= _MOST else limit + 1


def _bad_items(trial: Trial) -> dict[str, tuple[type[LmsTiersError], Any, Any]]:
    chunk, none, odd = Chunk(7, 40), Chunk(7, 40).message(key("bad")), Chunk(7, 40).message(key("bad"))
    none.key, odd.key = DuckKey(""), DuckKey("\ud800")  # type: ignore[assignment]
    unknown: Any = chunk.message(key("bad"))
    unknown.fmt = 99
    wrong = chunk.message(key("bad"))
    wrong.length = 41
    items: dict[str, tuple[type[LmsTiersError], Any, Any]] = {
        "a key of no text": (InvalidKeyError, none, chunk.data),
        "a key that cannot be encoded": (InvalidKeyError, odd, chunk.data),
        "an unknown format": (InvalidChunkError, unknown, chunk.data),
        "a wrong length": (InvalidChunkError, wrong, chunk.data),
    }
    size = too_large(trial)
    if size is not None:
        large = Chunk(7, size, meta=("uint8", "KV_2LTD", (size,))).message(key("bad"))
        items["more bytes than the declared limit"] = (ValueTooLargeError, large, partial(bytearray, size))
    return items


@prop(
    "BAT-09",
    "Whatever an item of put_many is refused for, its error is raised, those before it are stored, and it is not.",
    since="1.1",
)
def _refused(trial: Trial) -> None:
    for name, (error, message, data) in _bad_items(trial).items():
        for at in (0, 1, 3):
            trial.anew()
            backend = trial.open()
            backend.put("old", Chunk(9, 30))
            batch = [(Chunk(10 + i, 40).message(key(f"k{i}")), Chunk(10 + i, 40).data()) for i in range(3)]
            batch.insert(at, (message, data()))
            trial.record(f"# put_many of k0, k1 and k2, and before number {at} of these an item with {name}")
            backend.rejects(error, partial(backend.backend.put_many, batch), f"put_many with an item of {name}")
            trial.ran(1)
            _as_its_items(trial, backend, at, f"an item with {name} at place {at}")
            trial.release(backend)


def _as_its_items(trial: Trial, backend: Subject, at: int, why: str) -> None:
    model = {"old": Chunk(9, 30), **{f"k{i}": Chunk(10 + i, 40) for i in range(at)}}
    if trial.caps.batch_stops:
        backend.expect_model(model, ["bad", *(f"k{i}" for i in range(at, 3))])
        return
    for k, chunk in model.items():
        backend.expect_chunk(k, chunk, f"what came before {why}")
    for i in range(at, 3):
        found = backend.get(f"k{i}")
        wrong = None if found is None else difference(Chunk(10 + i, 40), found)
        expect(wrong is None, f"'k{i}', behind {why}, whole or absent", wrong)
    backend.expect_absent("bad")
