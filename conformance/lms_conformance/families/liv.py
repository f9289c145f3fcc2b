"""LIV: a medium that stalls, or dies, and heals. Calls end in time, nothing is wrong, and the backend comes back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from lms_conformance import gauges
from lms_conformance.chunks import KIB, Chunk, difference, key
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_tiers.errors import BackendClosedError, OutcomeUnknownError, StorageUnavailableError

_NEEDS = ("server", "deadline")

#: A call was made that the medium did not answer.
_STALLED = "stalled"

#: Seconds beside the deadline in which a machine with nothing else to do starts a thread and hears what it says.
_GRACE = 1.0

_OLD, _NEW, _OTHER = Chunk(11, 5000, 1), Chunk(12, 700, 2), Chunk(13, 70 * KIB, 3)


def _bound(trial: Trial) -> float:
    assert trial.harness.deadline is not None
    return trial.harness.deadline + _GRACE


@contextlib.contextmanager
def _sick(trial: Trial, subject: Subject, *, dead: bool = False) -> Iterator[None]:
    """The medium of a place stalls, or is dead, for the block."""
    trial.record(f"# the server of {subject.var} {'is killed' if dead else 'stalls (SIGSTOP)'}")
    (trial.harness.kill if dead else trial.harness.stall)(subject.path)
    try:
        yield
    finally:
        trial.harness.heal(subject.path)
        trial.record("# it goes on")


def _pair(trial: Trial) -> tuple[Subject, Subject]:
    """A patient backend that makes ready what is stored, and one of the same place that keeps the deadline."""
    patient = trial.open()
    patient.put("a", _OLD)
    patient.put("b", _OTHER)
    impatient = trial.open(path=patient.path, impatient=True)
    _back(trial, impatient, {"a": [_OLD], "b": [_OTHER]})
    return patient, impatient


def _in_time(trial: Trial, calls: Sequence[tuple[str, Callable[[], Any]]]) -> list[Any]:
    """What all of these calls, made at one time, answer or raise; a violation where one takes too long."""
    answers: list[Any] = [None] * len(calls)

    def made(i: int, call: Callable[[], Any]) -> None:
        try:
            answers[i] = call()
        except Exception as error:
            answers[i] = error

    threads = [
        threading.Thread(target=made, args=(i, call), daemon=True, name=f"conformance-{name}")
        for i, (name, call) in enumerate(calls)
    ]
    trial.ran(len(calls))
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for (name, _), thread in zip(calls, threads, strict=True):
        while thread.is_alive() and (left := began + _bound(trial) * gauges.busy() - time.monotonic()) > 0:
            thread.join(left)  # all from one beginning: calls that wait for one another are in time one by one
        if thread.is_alive():
            violate(f"{name} to end within the declared {trial.harness.deadline:g} s", "it did not")
    if any(answer is None or isinstance(answer, Exception) for answer in answers):
        trial.mark(_STALLED)
    for (name, _), answer in zip(calls, answers, strict=True):
        if isinstance(answer, Exception) and not isinstance(answer, StorageUnavailableError):
            violate(f"{name} to answer, miss, or raise StorageUnavailableError", f"{type(answer).__name__}: {answer}")
    return answers


def _back(trial: Trial, subject: Subject, may: dict[str, list[Chunk]]) -> None:
    """Within the declared time every key answers one of its chunks, and no call answers anything else meanwhile."""
    deadline = time.monotonic() + (trial.harness.recovery + _GRACE) * gauges.busy()
    left = dict(may)
    while left:
        for k, options in list(left.items()):
            found = subject.backend.get(key(k))
            trial.ran(1)
            if found is None:
                continue
            wrong = [difference(chunk, found) for chunk in options]
            expect(None in wrong, f"{k!r} to be one of {options}", wrong[0])
            del left[k]
        if left and time.monotonic() > deadline:
            violate(f"{sorted(left)} to be answered again within the declared {trial.harness.recovery:g} s", "misses")
        threading.Event().wait(0.01 if left else 0)


def _stored(trial: Trial, subject: Subject, k: str, chunk: Chunk) -> None:
    """Within the declared time a put is taken again, and read back."""
    deadline = time.monotonic() + (trial.harness.recovery + _GRACE) * gauges.busy()
    while True:
        trial.ran(1)
        try:
            subject.backend.put(chunk.message(key(k)), chunk.data())
            return _back(trial, subject, {k: [chunk]})
        except StorageUnavailableError as error:
            if time.monotonic() > deadline:
                violate(f"put to be taken again within the declared {trial.harness.recovery:g} s", error)
            threading.Event().wait(0.01)


@prop(
    "LIV-01",
    "While the medium stalls every read answers or misses within the declared deadline, and no byte is wrong.",
    needs=_NEEDS,
    since="1.1",
    marks=[_STALLED],
)
def _reads(trial: Trial) -> None:
    patient, impatient = _pair(trial)
    patient.put("a", _NEW)
    backend, keys = impatient.backend, [key(k) for k in "abx"]
    buffer = bytearray(len(_NEW))
    with _sick(trial, patient):
        for _ in range(2):
            got, many, told, held, run, into = _in_time(
                trial,
                [
                    ("get", lambda: backend.get(keys[0])),
                    ("get_many", lambda: backend.get_many(keys)),
                    ("contains_many", lambda: backend.contains_many(keys)),
                    ("contains", lambda: backend.contains(keys[0])),
                    ("contains_prefix", lambda: backend.contains_prefix(keys)),
                    ("get_into", lambda: backend.get_into(keys[0], buffer)),
                ],
            )
            raised = [a for a in (got, many, told, held, run, into) if isinstance(a, Exception)]
            expect(not raised, "reads of a stalled medium to miss", raised and repr(raised[0]))
            found = [("a", got), *zip("abx", many, strict=True)]
            for k, obj in found:
                want = {"a": _NEW, "b": _OTHER}.get(k)
                wrong = obj and (difference(want, obj) if want is not None else "a chunk")
                expect(obj is None or wrong is None, f"{k!r} to be {want!r}, or a miss", wrong)
            expect(told[2] is False and run <= 2, "no presence of what was never put", (told, run))
            expect(into is None or bytes(buffer) == _NEW.bytes(), "get_into to answer the newest chunk", "another")
            _in_time(trial, [("list_keys", backend.list_keys), ("scan", lambda: list(backend.scan()))])
    _back(trial, impatient, {"a": [_NEW], "b": [_OTHER]})


@prop(
    "LIV-02",
    "While the medium stalls every write ends within the declared deadline, and what returned is stored.",
    needs=_NEEDS,
    since="1.1",
    marks=[_STALLED],
)
def _writes(trial: Trial) -> None:
    patient, impatient = _pair(trial)
    backend = impatient.backend
    with _sick(trial, patient):
        answers = _in_time(
            trial,
            [
                ("put", lambda: backend.put(_NEW.message(key("a")), _NEW.data())),
                ("put_many", lambda: backend.put_many([(_NEW.message(key(k)), _NEW.data()) for k in "cd"])),
                ("flush", lambda: backend.flush(trial.harness.deadline)),
                *([("remove", lambda: backend.remove(key("b")))] if trial.caps.remove else []),
            ],
        )
    put, many, _, *removed = answers
    gone = bool(removed)
    in_doubt = isinstance(put, OutcomeUnknownError)
    _back(trial, impatient, {"a": [_OLD, _NEW] if in_doubt else [_NEW] if put is None else [_OLD]})
    if many is None:
        _back(trial, impatient, {"c": [_NEW], "d": [_NEW]})
    if not gone:
        _back(trial, impatient, {"b": [_OTHER]})
    elif removed[0] is None:
        impatient.expect_absent("b", "it was removed")
    elif not isinstance(removed[0], OutcomeUnknownError):
        _back(trial, impatient, {"b": [_OTHER]})


@prop(
    "LIV-03",
    "While the medium stalls close returns within the declared deadline, ends running calls, and leaves no thread.",
    needs=_NEEDS,
    since="1.1",
    marks=[_STALLED],
)
def _close(trial: Trial) -> None:
    patient = trial.open()
    patient.put("a", _OLD)
    before = gauges.threads()
    impatient = trial.open(path=patient.path, impatient=True)
    _back(trial, impatient, {"a": [_OLD]})
    with _sick(trial, patient):
        ended: list[Any] = []

        def read() -> None:
            try:
                ended.append(impatient.backend.get(key("a")))
            except BackendClosedError as error:
                ended.append(error)

        running = [threading.Thread(target=read, daemon=True, name="conformance-read") for _ in range(3)]
        for thread in running:
            thread.start()
        trial.mark(_STALLED)
        trial.within(_bound(trial), impatient.close, f"close within the declared {trial.harness.deadline:g} s, and so")
        for thread in running:
            if not gauges.ends(thread, _bound(trial)):
                violate("calls that were running to end after close", "one did not")
        until = time.monotonic() + _bound(trial) * gauges.busy()
        while (left := gauges.threads() - before) and time.monotonic() < until:
            threading.Event().wait(0.01)
        expect(not left, "no thread after close", sorted(left))
    patient.expect_chunk("a", _OLD)


@prop(
    "LIV-04",
    "After a stall the backend is back within the declared time, by itself: it stores, and answers what was stored.",
    needs=_NEEDS,
    since="1.1",
    marks=[_STALLED],
)
def _heals(trial: Trial) -> None:
    patient, impatient = _pair(trial)
    for i in range(2):
        with _sick(trial, patient):
            _in_time(trial, [("get", lambda: impatient.backend.get(key("a"))) for _ in range(6)])
        _back(trial, impatient, {"a": [_OLD], "b": [_OTHER]})
        _stored(trial, impatient, "c", Chunk(21 + i, 300, i))
    patient.expect_chunk("c", Chunk(22, 300, 1))


@prop(
    "LIV-05",
    "After its medium died and was started again the backend is back within the declared time, with no byte wrong.",
    needs=_NEEDS,
    since="1.1",
    marks=[_STALLED],
)
def _revives(trial: Trial) -> None:
    patient, impatient = _pair(trial)
    with _sick(trial, patient, dead=True):
        answers = _in_time(trial, [("get", lambda: impatient.backend.get(key("a"))) for _ in range(3)])
        expect(not any(isinstance(a, Exception) for a in answers), "reads of a dead medium to miss", answers)
        for a in answers:
            expect(a is None or difference(_OLD, a) is None, f"'a' to be {_OLD!r}, or a miss", "another chunk")
        stored = _in_time(trial, [("put", partial(impatient.backend.put, _NEW.message(key("a")), _NEW.data()))])
        expect(isinstance(stored[0], StorageUnavailableError), "put to a dead medium to raise", "it returned")
    _stored(trial, impatient, "a", _NEW)
    found = impatient.get("b")
    expect(found is None or difference(_OTHER, found) is None, f"'b' to be {_OTHER!r}, or a miss", "another chunk")


@prop(
    "LIV-06",
    "While the medium stalls opening ends within the declared deadline: with a backend that misses, or a typed error.",
    needs=_NEEDS,
    since="1.1",
    marks=[_STALLED],
)
def _opens(trial: Trial) -> None:
    patient, _ = _pair(trial)

    def opened() -> Any:
        with contextlib.suppress(StorageUnavailableError):
            return trial.open(path=patient.path, impatient=True)
        return None

    with _sick(trial, patient):
        found = _in_time(trial, [("opening", opened)])[0]
        if found is not None:
            answer = _in_time(trial, [("get", lambda: found.backend.get(key("a")))])[0]
            expect(
                answer is None or (not isinstance(answer, Exception) and difference(_OLD, answer) is None),
                f"'a' to be {_OLD!r}, or a miss", answer,
            )  # fmt: skip
    if found is not None:
        _back(trial, found, {"a": [_OLD]})
    _back(trial, trial.open(path=patient.path), {"a": [_OLD]})


@prop(
    "LIV-07",
    "While the medium stalls calls of many threads do not wait for one another: all end within the declared deadline.",
    needs=_NEEDS,
    since="1.1",
    marks=[_STALLED],
)
def _together(trial: Trial) -> None:
    patient, impatient = _pair(trial)
    backend = impatient.backend
    with _sick(trial, patient):
        _in_time(trial, [("one of 48 gets at one time", lambda: backend.get(key("a"))) for _ in range(48)])
    _back(trial, impatient, {"a": [_OLD]})
