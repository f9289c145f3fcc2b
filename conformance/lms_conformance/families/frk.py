"""FRK: a forked child works or is told so, and never harms its parent."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable

from lms_conformance.chunks import Chunk, difference, key
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_tiers.errors import ForkedProcessError, LmsTiersError

PATIENCE = 20.0


def _in_child(trial: Trial, work: Callable[[], str], what: str) -> str:
    """What `work` answers in a forked child; a violation where the child hangs or dies."""
    trial.record(f"# in a forked child: {what}")
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of forking beside threads, which is what a user's worker pool does.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        answer = "ended without an answer"
        try:
            answer = work()
        except BaseException as error:
            answer = f"raised {type(error).__name__}: {error}"
        finally:
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
    os.close(writer)
    ready: list[tuple[int, int]] = []
    try:
        watch = select.poll()  # select() takes no descriptor above 1023
        watch.register(reader, select.POLLIN)
        ready = watch.poll(PATIENCE * 1000)
        blob = os.read(reader, 1 << 16) if ready else b""
    finally:
        os.close(reader)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not ready:
        violate(f"{what} in a forked child to return within {PATIENCE:g} s", "a hang")
    if not blob:
        violate(f"{what} in a forked child to return or raise", f"the child died with status {status}")
    return str(json.loads(blob))


def _read_write(subject: Subject) -> str:
    """Read and write in the child; ``fine``, the name of a typed error, or what is wrong."""
    backend = subject.backend
    try:
        wrong = difference(Chunk(3, 5000), backend.get(key("a")))
        if wrong is not None:
            return f"get answered {wrong}"
        backend.put(Chunk(4, 700).message(key("child")), Chunk(4, 700).data())
        wrong = difference(Chunk(4, 700), backend.get(key("child")))
        return "fine" if wrong is None else f"get of its own put answered {wrong}"
    except ForkedProcessError:
        return "refused"
    except LmsTiersError as error:
        return f"typed {type(error).__name__}"


@prop("FRK-01", "A backend that declares `forkable` reads and writes in a forked child.", needs=["forkable"])
def _forkable(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 5000))
    answer = _in_child(trial, lambda: _read_write(backend), "get and put")
    expect(answer == "fine", "get and put to work in a forked child", answer)
    backend.expect_chunk("a", Chunk(3, 5000), "the parent's chunk")


@prop(
    "FRK-02",
    "A backend that does not declare `forkable` answers right in a forked child, or raises a typed error.",
    needs=["!forkable"],
)
def _refuses(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 5000))
    answer = _in_child(trial, lambda: _read_write(backend), "get and put")
    expect(answer in ("fine", "refused") or answer.startswith("typed "), "ForkedProcessError, or right answers", answer)
    backend.expect_chunk("a", Chunk(3, 5000), "the parent's chunk")


@prop("FRK-03", "Nothing a forked child does, closing and ending included, harms its parent.")
def _parent_unharmed(trial: Trial) -> None:
    backend = trial.open()
    model = {f"k{i}": Chunk(i, 2000 + i) for i in range(10)}
    for k, chunk in model.items():
        backend.put(k, chunk)
    backend.flush()

    def work() -> str:
        b = backend.backend
        calls: list[Callable[[], None]] = [
            lambda: b.put(Chunk(9, 100).message(key("k0")), Chunk(9, 100).data()),
            lambda: b.remove(key("k1")),
            b.flush,
            b.close,
        ]
        for call in calls:
            try:
                call()
            except LmsTiersError:
                continue
        return "done"

    answer = _in_child(trial, work, "put, remove, flush and close")
    expect(answer == "done", "put, remove, flush and close to work or raise typed errors in a child", answer)
    shared = trial.caps.forkable and trial.caps.persistent
    for k, chunk in model.items():
        if shared and k in ("k0", "k1"):
            continue  # a store that both processes share shows the child's changes
        backend.expect_chunk(k, chunk, "the parent's own chunk")
    backend.put("k0", Chunk(77, 300))
    backend.expect_chunk("k0", Chunk(77, 300), "what the parent put after the child ended")
    backend.flush()
    if trial.caps.persistent:
        backend.close()
        again = trial.reopen(backend)
        again.expect_chunk("k5", model["k5"], "the parent's chunk after reopening")
