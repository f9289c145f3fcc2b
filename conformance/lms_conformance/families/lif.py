"""LIF: opening, closing, and what happens in between and after."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lms_conformance.chunks import KIB, Chunk, difference, key
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation, expect, violate
from lms_tiers.errors import BackendClosedError, LmsTiersError

#: Seconds a close may take on a busy machine before it counts as stuck.
PATIENCE = 8.0


@prop("LIF-01", "close can be called again, from any thread, and does nothing then.")
def _twice(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 100))
    backend.close()
    for _ in range(3):
        trial.within(PATIENCE, lambda: backend.allows(backend.close, "a second close"), "a second close")


def _calls(subject: Subject) -> dict[str, Callable[[], Any]]:
    b = subject.backend
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: subject.put("a", Chunk(3, 10)),
        "get": lambda: subject.get("a"),
        "contains": lambda: subject.contains("a"),
        "list_keys": subject.list_keys,
        "put_many": lambda: subject.put_many([("a", Chunk(3, 10))]),
        "get_many": lambda: subject.get_many(["a"]),
        "contains_prefix": lambda: subject.contains_prefix(["a"]),
        "get_into": lambda: subject.get_into("a", bytearray(10)),
        "scan": subject.scan,
        "stats": subject.stats,
    }
    if b.capabilities.remove:
        calls["remove"] = lambda: subject.remove("a")
    if b.capabilities.persistent:
        calls["flush"] = subject.flush
    return calls


@prop("LIF-02", "After close every call raises BackendClosedError.")
def _after_close(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 10))
    backend.close()
    for name, call in _calls(backend).items():
        if name != "stats":
            backend.rejects(BackendClosedError, call, f"{name} after close")


@prop(
    "LIF-03",
    "close beside running calls returns, and each of them is right or raises BackendClosedError.",
    marks=["a call met close"],
)
def _beside(trial: Trial) -> None:
    for attempt in range(6):
        _close_beside(trial, attempt)


def _close_beside(trial: Trial, attempt: int) -> None:
    trial.anew()
    backend = trial.open()
    chunk = Chunk(3, 64 * KIB + attempt)
    backend.put("a", chunk)
    started = threading.Barrier(4)
    finished: list[int] = []
    trial.record(f"# two threads get 'a', one puts 'b', and {backend.var}.close() is called beside them")

    def work(operation: Callable[[], Any]) -> None:
        started.wait(PATIENCE)
        for i in range(400):
            try:
                operation()
                finished.append(i)
            except BackendClosedError:
                trial.mark("a call met close")
                return
            except Violation:
                raise
            except Exception as error:
                violate("a call beside close to finish or raise BackendClosedError", f"{type(error).__name__}: {error}")

    def read() -> None:
        wrong = difference(chunk, backend.backend.get(key("a")))
        expect(wrong is None, "the chunk, or BackendClosedError", wrong)

    def write() -> None:
        backend.backend.put(Chunk(5, 5000).message(key("b")), Chunk(5, 5000).data())

    def close() -> None:
        started.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while len(finished) < 20 * attempt and time.monotonic() < deadline:
            time.sleep(1e-4)  # some way into the loops of the others
        backend.allows(backend.close, "close beside running calls")

    workers: list[Callable[[], Any]] = [partial(work, read), partial(work, read), partial(work, write), close]
    trial.threads(workers, PATIENCE, "close beside running calls")
    backend.rejects(BackendClosedError, lambda: backend.get("a"), "get after that close")


@prop("LIF-04", "A backend that is not closed but forgotten goes quietly: no error is printed, and others work on.")
def _forgotten(trial: Trial) -> None:
    problems: list[str] = []
    before = sys.unraisablehook

    def note(unraisable: Any) -> None:
        problems.append(f"{type(unraisable.exc_value).__name__}: {unraisable.exc_value}")

    sys.unraisablehook = note
    try:
        for i in range(3):
            path, capacity = trial.directory(), 64 * KIB * KIB if trial.harness.takes_capacity else None
            trial.leaves(path, capacity)
            backend = trial.harness.open(path, capacity)
            backend.put(Chunk(i, 100).message(key("a")), Chunk(i, 100).data())
            trial.record("backend = open_backend(path); backend.put(…); del backend; gc.collect()")
            del backend
            gc.collect()
    finally:
        sys.unraisablehook = before
    expect(not problems, "garbage collection to raise nothing", problems[:1])
    fresh = trial.open()
    fresh.put("a", Chunk(9, 100))
    fresh.expect_model({"a": Chunk(9, 100)})


@prop(
    "LIF-05",
    "After a failed open nothing is left behind: the same place opens once it is sound.",
    needs=["persistent", "local"],
)
def _failed_open(trial: Trial) -> None:
    root = trial.directory()
    blocked = root / "blocked"
    blocked.write_bytes(b"not a directory, and not yours")
    before = len(os.listdir("/proc/self/fd"))
    for place in (blocked, blocked / "below"):
        trial.record(f"open_backend({str(place.name)!r})  # a file stands where the directory should be")
        backend: Any = None
        try:
            backend = trial.harness.open(place, _capacity(trial))
        except LmsTiersError:
            pass
        except Exception as error:
            violate("opening a place that is no directory to raise a typed error", f"{type(error).__name__}: {error}")
        if backend is not None:
            backend.close()
            violate("opening a place that is no directory to raise a typed error", "it opened")
    expect(blocked.read_bytes() == b"not a directory, and not yours", "the file in the way untouched", "it was changed")
    after = len(os.listdir("/proc/self/fd"))
    expect(after <= before, "no descriptor left open by a failed open", f"{after - before} more")
    blocked.unlink()
    blocked.mkdir()
    subject = trial.open(capacity=_capacity(trial), path=blocked)
    subject.put("a", Chunk(3, 100))
    subject.expect_model({"a": Chunk(3, 100)})


@prop(
    "LIF-06", "A place opened twice is refused with a typed error, or both see the same chunks.", needs=["persistent"]
)
def _double_open(trial: Trial) -> None:
    first = trial.open(capacity=_capacity(trial))
    first.put("a", Chunk(3, 100))
    first.flush()
    second: Subject | None = None
    try:
        second = trial.open(capacity=_capacity(trial), path=first.path)
    except LmsTiersError:
        pass
    except Exception as error:
        violate("a second open to work or raise a typed error", f"{type(error).__name__}: {error}")
    if second is not None:
        second.expect_chunk("a", Chunk(3, 100), "what the first stored")
        second.put("b", Chunk(4, 100))
        if trial.caps.write_behind:
            second.flush()
        first.expect_chunk("b", Chunk(4, 100), "what the second stored")
        second.close()
    first.expect_chunk("a", Chunk(3, 100), "its own chunk after the second open")
    first.put("c", Chunk(5, 100))
    first.expect_chunk("c", Chunk(5, 100))
    first.close()
    again = trial.reopen(first)
    again.expect_chunk("a", Chunk(3, 100), "the chunk after both were closed")


@prop("LIF-07", "The with statement closes, and lets an exception through.")
def _with(trial: Trial) -> None:
    backend = trial.open()
    trial.record("with backend: raise KeyError('mine')")
    try:
        with backend.backend as entered:
            expect(entered is backend.backend, "__enter__ to answer the backend", type(entered).__name__)
            backend.put("a", Chunk(3, 10))
            raise KeyError("mine")
    except KeyError:
        pass
    else:
        violate("the exception of the block to come through", "it was swallowed")
    backend.rejects(BackendClosedError, lambda: backend.get("a"), "get after the with block")


@prop("LIF-08", "Two backends opened in two places share nothing.")
def _strangers(trial: Trial) -> None:
    one, two = trial.open(), trial.open()
    one.put("a", Chunk(3, 100))
    two.expect_model({}, ["a"])
    two.put("a", Chunk(4, 50))
    one.expect_model({"a": Chunk(3, 100)})
    one.close()
    two.expect_model({"a": Chunk(4, 50)})
    three = trial.open()
    three.expect_model({}, ["a"])


@prop("LIF-09", "A backend opened, used and closed ten times in fresh places works each time.")
def _again(trial: Trial) -> None:
    for i in range(10):
        trial.anew()
        backend = trial.open()
        backend.allows(partial(backend.put, "a", Chunk(i, 100)), f"put into the backend opened as number {i + 1}")
        backend.expect_model({"a": Chunk(i, 100)})
        backend.close()


def _capacity(trial: Trial) -> int | None:
    return 64 * KIB * KIB if trial.harness.takes_capacity else None
