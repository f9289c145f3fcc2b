"""How long the kit waits on a busy machine, and what it takes for a leak of shared memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from lms_conformance import gauges
from lms_conformance.outcome import Status
from lms_conformance.spec import properties

from tests.conformance.test_run import engine


class Waited(threading.Thread):
    """A thread that never ends, and waits to be joined by a clock of its own."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> None:
        assert timeout is not None
        self.clock[0] += timeout


@pytest.mark.parametrize(("wanting", "times"), [(0.0, 1), (1.0, 1), (8.0, 4)])
def test_a_thread_is_waited_for_as_much_longer_as_processors_are_wanted(
    monkeypatch: pytest.MonkeyPatch, wanting: float, times: int
) -> None:
    clock = [100.0]
    monkeypatch.setattr(os, "getloadavg", lambda: (wanting, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert not gauges.ends(Waited(clock), 60)
    assert clock[0] == 100.0 + 60 * times


def test_a_machine_that_grows_busy_meanwhile_is_waited_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(gauges, "busy", lambda: 1.0 if clock[0] < 150 else 3.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert not gauges.ends(Waited(clock), 60)
    assert clock[0] == 280.0


def test_a_thread_that_has_ended_is_not_waited_for() -> None:
    done = threading.Thread(target=int)
    done.start()
    assert gauges.ends(done, 60)


def names(left: Callable[[int], set[str]]) -> Callable[[], set[str]]:
    """What /dev/shm holds at each look."""
    looks = iter(range(10**6))
    return lambda: left(next(looks))


def test_a_name_that_others_make_once_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    (leaks,) = (p for p in properties() if p.id == "RES-06")
    monkeypatch.setattr(gauges, "shared_memory", names(lambda look: {"others"} if look else set()))
    assert engine().run(leaks).status is Status.PASSED


def test_a_name_more_each_time_is(monkeypatch: pytest.MonkeyPatch) -> None:
    (leaks,) = (p for p in properties() if p.id == "RES-06")
    monkeypatch.setattr(gauges, "shared_memory", names(lambda look: {str(i) for i in range(look)}))
    assert engine().run(leaks).status is Status.FAILED


def test_a_process_goes_on_until_the_last_of_its_threads_has_stopped_or_ended() -> None:
    code = "import threading\nthreading.Thread(target=input).start()\nprint('there', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert gauges.goes_on(process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            assert not gauges.goes_on(process.pid)
            process.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, process.pid, os.WCONTINUED)
            assert gauges.goes_on(process.pid)
        finally:
            process.kill()
    assert not gauges.goes_on(process.pid)
