"""Another process on the place of a backend: it does what it is told, it says what is wrong there, and it is gone after."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest
from lms_conformance.chunks import Chunk
from lms_conformance.harness import Harness
from lms_conformance.history import History
from lms_conformance.peers import Peer, peer
from lms_conformance.profiles import profile
from lms_conformance.races import Execution, Mix, Threads, draw
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation
from lms_conformance.zoo.harnesses import MutantHarness, ReferenceHarness
from lms_conformance.zoo.hunt import engine_of

pytestmark = pytest.mark.leaks_allowed

CHUNK = Chunk(11, 5000, 2)


def trial_of(harness: Harness) -> Trial:
    engine = engine_of(harness, profile("quick"), 20)
    return Trial(harness, engine.caps, engine.have, engine.profile, random.Random(20))


@pytest.fixture
def trial() -> Iterator[Trial]:
    made = trial_of(ReferenceHarness("shared-files"))
    yield made
    made.end()


def test_both_processes_see_what_either_does(trial: Trial) -> None:
    here = trial.open()
    with peer(trial, here) as there:
        there.put("a", CHUNK)
        here.expect_chunk("a", CHUNK)
        here.remove("a")
        there.expect({}, ["a"])
        there.close()
    assert any("another process: put('a'" in line.code for line in trial.lines)


def test_what_is_wrong_in_the_other_process_is_a_violation_here(trial: Trial) -> None:
    with peer(trial, trial.open()) as there, pytest.raises(Violation, match=r"in the other process get of 'a'.*None"):
        there.expect({"a": CHUNK})


def test_an_error_in_the_other_process_is_a_violation_here(trial: Trial) -> None:
    with peer(trial, trial.open()) as there, pytest.raises(Violation, match="InvalidKeyError"):
        there.put("", CHUNK)


def _gone(there: Peer) -> bool:
    try:
        os.kill(there._job.pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_other_process_is_gone_after_a_violation_a_kill_and_in_the_middle_of_a_call(trial: Trial) -> None:
    here = trial.open()
    with pytest.raises(Violation, match="mine"), peer(trial, here) as first:
        raise Violation("mine", "none")
    with peer(trial, here) as second:
        second.overwrite("a", [CHUNK])
    with peer(trial, here) as third:
        third.kill()
    assert all(map(_gone, (first, second, third)))


def test_the_histories_of_two_processes_are_one_by_one_clock() -> None:
    broken = trial_of(MutantHarness("shares-within-its-process"))
    mix = Mix(("put", "get"), ("a", "b"), 4, 5, (8, 16, 24, 64), preempt=False)
    for trial, explained in ((trial_of(ReferenceHarness("shared-files")), True), (broken, False)):
        here = trial.open()
        with peer(trial, here) as there:
            found = []
            for seed in range(8):
                keys = (f"{seed}-a", f"{seed}-b")
                program: Threads = [
                    [(kind, (f"{seed}-{k[0]}",), n) for kind, k, n in steps] for steps in draw(random.Random(seed), mix)
                ]
                execution = Execution(
                    [here.backend], Mix(mix.kinds, keys, 4, 5, mix.sizes, False), 0, History(clock=time.monotonic_ns)
                )
                there.race(execution, program)
                execution.look()
                assert {call.thread for call in execution.history.calls} == {0, 1, 2, 3, 99}
                found.append(execution.history.contradiction() is None)
        trial.end()
        assert all(found) is explained
