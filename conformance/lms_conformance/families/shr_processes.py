"""SHR, in two processes: what one does the other sees, what kills one spares the other, their calls have an order."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from lms_conformance.chunks import KIB, MIB, Chunk, difference
from lms_conformance.history import History
from lms_conformance.marks import OVERLAPPED
from lms_conformance.peers import peer
from lms_conformance.races import Execution, Mix, draw, unexplained
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect

#: What SHR-07 must have met.
IN_ANOTHER: Final = "seen by another process"


@prop(
    "SHR-07",
    "What a process puts, overwrites, removes and lists, another process sees, in both directions.",
    needs=["shared", "processes"],
    since="1.1",
    marks=[IN_ANOTHER],
)
def _two_processes(trial: Trial) -> None:
    here = trial.open()
    with peer(trial, here) as there:
        model: dict[str, Chunk] = {}
        there.expect({}, ["a", "b"])
        for i, size in enumerate((5000, 5000, 70, 300 * KIB)):
            model["a"] = Chunk(11 + i, size, i)
            here.put("a", model["a"])
            there.expect(model, ["b"])
            model["a"], model["b"] = Chunk(21 + i, size + 1, i + 1), Chunk(31 + i, size, i)
            there.put("a", model["a"])
            there.put("b", model["b"])
            here.expect_model(model)
            if there.pid != os.getpid():
                trial.mark(IN_ANOTHER)
            if trial.caps.remove:
                (here if i % 2 else there).remove("b")
                del model["b"]
                here.expect_model(model, ["b"])
                there.expect(model, ["b"])
        there.close()
    here.expect_model(model)


@prop(
    "SHR-08",
    "A process that is killed takes nothing with it: what it put is there, what it was writing is whole or not stored.",
    needs=["shared", "processes"],
    since="1.1",
    marks=["killed beside others"],
)
def _killed(trial: Trial) -> None:
    versions = [Chunk(11 + i, MIB, i) for i in range(3)]
    for tried in range(trial.profile.crashes):
        trial.anew()
        here = trial.open()
        here.put("a", versions[0])
        with peer(trial, here) as there:
            there.put("b", Chunk(14, 5000))
            there.overwrite("a", versions)
            threading.Event().wait(trial.rng.random() * 0.06)
            there.kill(inside=tried % 2 == 0)
            trial.mark("killed beside others")
        after = trial.open(path=here.path)
        for one in (here, after):
            one.expect_chunk("b", Chunk(14, 5000), "what the killed process had put")
            found = one.get("a")
            wrong = [difference(chunk, found) for chunk in versions]
            expect(None in wrong, "'a' to be the old chunk or one of the new ones, whole", wrong[0])
            one.put("a", versions[1])
            here.expect_chunk("a", versions[1])
            one.expect_keys(["a", "b"])
        if trial.caps.remove:
            here.remove("b")
            after.expect_absent("b")
        for one in (after, here):
            trial.release(one)


#: What the chunks of two processes are made of: small, so that calls meet, and large, so that they take long.
_RACES = ((8, 16, 24, 64), (256 * KIB, 512 * KIB, 256 * KIB + 8))


def _read_inside_puts(trial: Trial) -> None:
    """What is read while another process stands inside an overwrite is one of the chunks, whole."""
    versions = [Chunk(11 + i, 512 * KIB, i) for i in range(3)]
    here = trial.open()
    here.put("a", versions[0])
    with peer(trial, here) as there:
        there.overwrite("a", versions)
        for _ in range(4 * trial.profile.crashes):
            with there.stopped_in_a_put():
                found = here.get("a")
            wrong = [difference(chunk, found) for chunk in versions]
            expect(None in wrong, "'a' to be one of the chunks that the other process puts, whole", wrong[0])
        there.kill()
    trial.release(here)
    trial.anew()


@prop(
    "SHR-09",
    "Drawn programs of two processes at one time are linearizable key by key.",
    needs=["shared", "processes"],
    since="1.1",
    marks=[OVERLAPPED],
)
def _across_processes(trial: Trial) -> None:
    _read_inside_puts(trial)
    kinds = ("put", "put", "get", "get", "contains", *(("remove",) if trial.caps.remove else ()))
    here = trial.open()
    with peer(trial, here) as there:
        least = max(6, trial.profile.rounds // 3)
        for i in range(10 * least):  # beyond `least` only until calls have met
            if i >= least and trial.marks[OVERLAPPED]:
                break
            keys = (f"{i}-a", f"{i}-b")
            mix = Mix(kinds, keys, 4, 5, _RACES[i % 2], preempt=False)
            execution = Execution([here.backend], mix, 0, History(clock=time.monotonic_ns))
            with trial.quiet("# two processes of two threads each, drawn programs"):
                there.race(execution, draw(trial.rng, mix))
                execution.look()
            if execution.history.overlapped():
                trial.mark(OVERLAPPED)
            calls = execution.history.contradiction()
            if calls is not None:
                unexplained(calls)
