"""A call is stopped before each of its opcodes, and the other one runs there from its beginning to its end."""

from __future__ import annotations

import threading

from lms_conformance.overlap import Stopped

FILES = (__file__,)


class Checks:
    """Looks first and writes then."""

    def __init__(self) -> None:
        self.closed = False
        self.written: list[bool] = []

    def write(self) -> None:
        if not self.closed:
            self.written.append(self.closed)


def _stopped(at: int) -> tuple[Checks, Stopped]:
    subject = Checks()

    def close() -> None:
        subject.closed = True

    stopped = Stopped(FILES, at, close)
    stopped.run(subject.write)
    assert stopped.ended(5)
    return subject, stopped


def test_what_was_checked_before_and_done_after_shows_at_some_opcode() -> None:
    length = _stopped(-1)[1].opcodes
    assert length > 5
    late = [at for at in range(length) if _stopped(at)[0].written == [True]]
    assert late
    assert not _stopped(0)[0].written


def test_the_other_call_runs_at_the_latest_when_the_first_has_returned() -> None:
    subject, _ = _stopped(10_000)
    assert subject.closed
    assert subject.written == [False]


def test_one_that_waits_for_a_lock_of_the_first_is_waited_for_afterwards() -> None:
    lock, order = threading.Lock(), []

    def first() -> None:
        with lock:
            order.append("first")

    def other() -> None:
        with lock:
            order.append("other")

    for at in range(20):
        order.clear()
        stopped = Stopped(FILES, at, other)
        stopped.run(first)
        assert stopped.ended(5)
        assert sorted(order) == ["first", "other"]


def test_what_the_other_one_raised_is_kept() -> None:
    def fails() -> None:
        raise KeyError("mine")

    stopped = Stopped(FILES, 0, fails)
    assert stopped.run(lambda: 7) == 7
    assert stopped.ended(5)
    assert isinstance(stopped.error, KeyError)
