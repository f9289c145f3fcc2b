"""ERR: errors come from the closed taxonomy, carry their cause, travel between processes, and change nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable

from lms_conformance.chunks import Chunk, DuckKey, difference, key
from lms_conformance.programs import Op, programs
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_tiers.errors import (
    BackendClosedError,
    InvalidChunkError,
    InvalidKeyError,
    LmsTiersError,
    OutcomeUnknownError,
)


def _bad_put(backend: Subject) -> Callable[[], None]:
    message = Chunk(4, 10).message(key("a"))
    message.length = 11
    return lambda: backend.put("a", Chunk(4, 10), message=message)


def _provoke(trial: Trial) -> dict[str, LmsTiersError]:
    backend = trial.open()
    raised = {
        "a wrong length": backend.rejects(InvalidChunkError, _bad_put(backend), "put with a wrong length"),
        "an empty key": backend.rejects(
            InvalidKeyError, lambda: backend.put(DuckKey(""), Chunk(4, 9)), "put under an empty key"
        ),
        "an unusable key": backend.rejects(
            InvalidKeyError, lambda: backend.get(DuckKey("\ud800")), "get of a lone surrogate"
        ),
    }
    backend.close()
    raised["use after close"] = backend.rejects(BackendClosedError, lambda: backend.get("a"), "get after close")
    return raised


@prop("ERR-01", "A call that fails leaves the state as it was: the old chunk, its metadata, the list.")
def _state(trial: Trial) -> None:
    backend = trial.open()
    model = {"a": Chunk(3, 100, 1), "b": Chunk(4, 50)}
    for k, chunk in model.items():
        backend.put(k, chunk)
    for _ in range(3):
        backend.rejects(LmsTiersError, _bad_put(backend), "put with a wrong length")
        backend.rejects(LmsTiersError, lambda: backend.put(DuckKey(""), Chunk(4, 9)), "put under an empty key")
        backend.rejects(LmsTiersError, lambda: backend.get(DuckKey(7)), "get of a key that is no text")
        backend.expect_model(model)
    backend.put("a", Chunk(5, 60))
    backend.expect_model({**model, "a": Chunk(5, 60)})


@prop("ERR-02", "Errors can be pickled and keep type, message and attributes, so that they cross processes.")
def _pickle(trial: Trial) -> None:
    for name, error in _provoke(trial).items():
        try:
            copy = pickle.loads(pickle.dumps(error))
        except Exception as failure:
            expect(False, f"the error of {name} to be picklable", f"{type(failure).__name__}: {failure}")
            continue
        expect(type(copy) is type(error), f"{type(error).__name__}", type(copy).__name__)
        expect(str(copy) == str(error), f"the message {str(error)!r}", str(copy))


@prop("ERR-03", "Errors name what was at fault: the key, and a message that is not empty.")
def _attributes(trial: Trial) -> None:
    raised = _provoke(trial)
    chunk_error = raised["a wrong length"]
    found = getattr(chunk_error, "key", None)
    expect(found == "a", "the key 'a' as attribute `key` of the error", found)
    for name, error in raised.items():
        expect(len(str(error)) >= 10, f"a message for {name}", repr(str(error)))


@prop("ERR-04", "put never swallows a failure: what returned without an error is stored.")
def _swallowed(trial: Trial) -> None:
    backend = trial.open()
    for i in range(12):
        chunk = Chunk(i, 40 + i)
        message = chunk.message(key("a"))
        message.length += i % 2
        try:
            backend.put("a", chunk, message=message)
        except LmsTiersError:
            expect(i % 2 == 1, "put of a sound chunk to return", "an error")
            continue
        backend.expect_chunk("a", chunk, "what was put without an error")


@prop("ERR-05", "After a hundred failed calls the backend works as before.")
def _exhaustion(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 30))
    with trial.quiet("# a hundred refused puts and gets"):
        for _ in range(100):
            backend.rejects(InvalidChunkError, _bad_put(backend), "put with a wrong length")
            backend.rejects(InvalidKeyError, lambda: backend.get(DuckKey("")), "get of an empty key")
    backend.put("b", Chunk(4, 30))
    backend.expect_model({"a": Chunk(3, 30), "b": Chunk(4, 30)})


@prop(
    "ERR-06",
    "OutcomeUnknownError comes from writes alone; the key then holds the old chunk or the new one, whole.",
    since="1.1",
    given=lambda: programs("put", "get", "contains"),
    marks=["a write in doubt"],
)
def _doubt(trial: Trial, program: tuple[Op, ...]) -> None:
    backend = trial.open()
    may_hold: dict[str, list[Chunk | None]] = {}
    trial.cannot("a write in doubt", "every write was answered: none raised OutcomeUnknownError")
    in_doubt: dict[str, list[Chunk | None]] = {}  # what was sent without an answer may arrive later
    for op in program:
        k = op.keys[0]
        before, late = may_hold.setdefault(k, [None]), in_doubt.setdefault(k, [])
        if op.kind == "put":
            try:
                backend.put(k, op.chunks[0])
                may_hold[k] = [op.chunks[0], *late]
            except OutcomeUnknownError:
                trial.mark("a write in doubt")
                late.append(op.chunks[0])
                before.append(op.chunks[0])
        elif op.kind == "get":
            _holds_one_of(backend, k, before)
        else:
            backend.contains(k)
    for k, before in may_hold.items():
        _holds_one_of(backend, k, before)


def _holds_one_of(backend: Subject, k: str, may_hold: list[Chunk | None]) -> None:
    found = backend.get(k)
    fits = any(found is None if chunk is None else difference(chunk, found) is None for chunk in may_hold)
    expect(fits, f"one of {may_hold!r} under {k!r}", found)
