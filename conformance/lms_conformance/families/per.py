"""PER: what was flushed is there again after reopening."""

from __future__ import annotations

from lms_conformance.chunks import KIB, KINDS, MIB, Chunk, difference
from lms_conformance.programs import POOL, Op, programs, run
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect


def _kinds(trial: Trial) -> tuple[str, ...]:
    return ("put", "remove") if trial.caps.remove else ("put",)


def _reopened(trial: Trial, backend: Subject, *, flush: bool = True) -> Subject:
    if flush:
        backend.flush()
    backend.close()
    return trial.reopen(backend)


@prop(
    "PER-01",
    "After flush, close and reopen everything is as it was: keys, bytes, metadata.",
    needs=["persistent"],
    given=lambda: programs("put", "put", "remove"),
    weight=0.5,
)
def _reopen(trial: Trial, program: tuple[Op, ...]) -> None:
    backend = trial.open()
    model: dict[str, Chunk] = {}
    run(backend, model, [op for op in program if op.kind in _kinds(trial)])
    again = _reopened(trial, backend)
    again.expect_model(model, POOL)


@prop("PER-02", "A removed key stays removed after reopening.", needs=["persistent", "remove"])
def _removed(trial: Trial) -> None:
    backend = trial.open()
    for k in "abc":
        backend.put(k, Chunk(3, 300))
    backend.flush()
    backend.remove("b")
    again = _reopened(trial, backend)
    again.expect_model({"a": Chunk(3, 300), "c": Chunk(3, 300)}, ["b"])
    again.remove("a")
    last = _reopened(trial, again)
    last.expect_model({"c": Chunk(3, 300)}, ["a", "b"])


@prop("PER-03", "Of an overwritten key the newest chunk is there after reopening.", needs=["persistent"])
def _newest(trial: Trial) -> None:
    backend = trial.open()
    for i in range(6):
        backend.put("a", Chunk(i, 700 - i))
        backend.put("b", Chunk(i, 10 + i, i))
        if i % 2:
            backend.flush()
    again = _reopened(trial, backend)
    again.expect_model({"a": Chunk(5, 695), "b": Chunk(5, 15, 5)})
    again.put("a", Chunk(9, 3))
    last = _reopened(trial, again)
    last.expect_model({"a": Chunk(9, 3), "b": Chunk(5, 15, 5)})


@prop(
    "PER-04",
    "load_state answers the newest save_state after reopening, whole, or None; never anything else.",
    needs=["persistent"],
    marks=["state read back"],
)
def _state(trial: Trial) -> None:
    backend = trial.open()
    trial.cannot("state read back", "it keeps no state: load_state answers None")
    expect(backend.load_state() is None, "None before any save_state", "a state")
    backend.put("a", Chunk(3, 100))
    for state in (b"first", b"\x00\xff" * 3000, b"the newest"):
        backend.save_state(state)
        found = backend.load_state()
        expect(found in (None, state), f"{state[:20]!r} or None", found)
    again = _reopened(trial, backend)
    found = again.load_state()
    expect(found in (None, b"the newest"), "b'the newest' or None", found)
    if found is not None:
        trial.mark("state read back")
    again.expect_model({"a": Chunk(3, 100)})


@prop("PER-05", "close makes everything durable, without a flush before it.", needs=["persistent"])
def _close(trial: Trial) -> None:
    backend = trial.open()
    model = {f"k{i}": Chunk(i, 500 * i, i % len(KINDS)) for i in range(20)}
    for k, chunk in model.items():
        backend.put(k, chunk)
    again = _reopened(trial, backend, flush=False)
    again.expect_model(model)


@prop("PER-06", "Opening and closing without a change changes nothing, however often.", needs=["persistent"])
def _idle(trial: Trial) -> None:
    backend = trial.open()
    model = {f"k{i}": Chunk(i, 1000 + i, i % len(KINDS)) for i in range(12)}
    for k, chunk in model.items():
        backend.put(k, chunk)
    for _ in range(4):
        backend = _reopened(trial, backend)
    backend.expect_model(model)


@prop("PER-07", "Large and many chunks, and every kind of metadata, are there after reopening.", needs=["persistent"])
def _bulk(trial: Trial) -> None:
    backend = trial.open()
    model = {f"k{i}": Chunk(i, 40 + i % 7, i % len(KINDS)) for i in range(400)}
    model |= {f"large{n}": Chunk(3, n, 1) for n in (64 * KIB - 16, 300 * KIB + 1, 2 * MIB + 5, 0)}
    with trial.quiet("# 400 small chunks and some of up to 2 MiB"):
        backend.put_many(list(model.items()))
        again = _reopened(trial, backend)
        again.expect_model(model)


@prop("PER-08", "What was flushed is on the medium: seen there past the backend.", needs=["persistent", "peek"])
def _peek(trial: Trial) -> None:
    backend = trial.open()
    for size in (0, 100, 300 * KIB):
        backend.put("a", Chunk(3, size))
        backend.flush()
        found = trial.harness.raw_peek(backend.path, "a")
        expect(found == Chunk(3, size).bytes(), f"the {size} bytes on the medium after flush", found and len(found))


@prop(
    "PER-09",
    "Where `persistent` is not declared, a reopened place answers each key exactly, or not at all.",
    needs=["!persistent"],
)
def _undeclared(trial: Trial) -> None:
    backend = trial.open()
    model = {f"k{i}": Chunk(i, 900 + i, i) for i in range(8)}
    for k in model:
        backend.put(k, Chunk(99, 50))
    for k, chunk in model.items():
        backend.put(k, chunk)
    again = _reopened(trial, backend)
    for k, chunk in model.items():
        obj = again.get(k)
        wrong = None if obj is None else difference(chunk, obj)
        expect(wrong is None, f"{chunk!r} or None under {k!r}", wrong)
    expect(set(again.keys()) <= set(model), "no key that was not put", again.keys())
    again.put("new", Chunk(3, 10))
    again.expect_chunk("new", Chunk(3, 10))


@prop(
    "PER-10",
    "A place may be moved while it is closed: everything is found in the new place.",
    needs=["persistent", "local"],
)
def _moved(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 5000))
    backend.flush()
    backend.close()
    trial.harness.stop(backend.path)
    elsewhere = trial.directory()
    target = elsewhere / "moved"
    backend.path.rename(target)
    backend.path.mkdir()
    trial.record("path1.rename(path2 / 'moved')")
    again = trial.open(capacity=backend.capacity, path=target)
    again.expect_model({"a": Chunk(3, 5000)})
