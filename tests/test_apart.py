"""A library in a process of its own: what is late, crashes or never starts ends there, and nothing is left."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.apart.process import Apart, FailedError

#: Answers a message by what it says: to come back, to hang, to die, to write into the memory.
PROGRAM = """
import os, threading
class Library:
    def hello(self, memory, at, *rest):
        return ["hello", *rest, os.getpid()]
    def hang(self, memory, at):
        threading.Event().wait()
    def fail(self, memory, at):
        raise OSError("no such thing")
    def die(self, memory, at):
        os._exit(3)
    def write(self, memory, at, *rest):
        memory[:4] = b"done"
        return ["write", *rest, os.getpid()]
def start(told, memory):
    if told["hangs"]:
        threading.Event().wait()
    if told["fault"]:
        raise ImportError(told["fault"])
    return Library(), 0
"""
Open = Callable[..., Apart]


def soon(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def asked(client: Apart, *message: Any, seconds: float = 60) -> Any:
    with client.lane(soon(seconds)) as lane:
        return lane.ask(soon(seconds), *message)


def ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Open]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    clients: list[Apart] = []

    def made(lanes: int = 2, fault: str = "", hangs: str = "") -> Apart:
        clients.append(Apart(program, {"fault": fault, "hangs": hangs}, {}, 4096, lanes))
        return clients[-1]

    yield made
    for client in clients:
        client.close()


def test_what_is_asked_is_answered_and_memory_is_shared(apart: Open) -> None:
    client = apart()
    with client.lane(soon()) as lane:
        assert lane.ask(soon(), "write", [1, "ü"])[:2] == ["write", [1, "ü"]]
        assert bytes(lane.memory[:4]) == b"done"
    assert client.starts == 1


def test_a_process_may_hold_more_descriptors_than_select_takes(apart: Open) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(before[0], 2200), before[1]), before[1]))
    held = []
    try:
        held += [os.dup(0) for _ in range(1100)]
        assert asked(apart(), "hello")[0] == "hello"
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_late_ends_the_process_and_the_next_call_has_another(apart: Open) -> None:
    client = apart()
    first = asked(client, "hello")[-1]
    with pytest.raises(FailedError, match="in time") as caught:
        asked(client, "hang", seconds=0.2)
    assert caught.value.sent
    assert ended(first)
    assert asked(client, "hello")[-1] != first
    assert client.starts == 2


def test_an_error_of_the_library_is_told_and_ends_nothing(apart: Open) -> None:
    client = apart(lanes=1)
    with pytest.raises(FailedError, match="no such thing") as caught:
        asked(client, "fail")
    assert caught.value.sent
    assert asked(client, "hello")[0] == "hello"
    assert client.starts == 1


def test_a_crash_fails_what_is_on_its_way_and_nothing_after(apart: Open) -> None:
    client = apart()
    asked(client, "hello")
    with client.lane(soon()) as other:
        with pytest.raises(FailedError) as caught:
            asked(client, "die")
        assert caught.value.sent
        with pytest.raises(FailedError):
            other.ask(soon(), "hello")
    assert asked(client, "hello")[0] == "hello"


def test_one_that_cannot_serve_says_why_and_rests(apart: Open) -> None:
    client = apart(fault="no such library")
    for _ in range(3):
        with pytest.raises(FailedError, match="no such library") as caught:
            asked(client, "hello")
        assert not caught.value.sent
    assert client.starts == 1


def test_one_that_starts_slowly_is_waited_for_by_each_call_within_its_time(apart: Open) -> None:
    client = apart(hangs="yes")
    for _ in range(3):
        with pytest.raises(FailedError, match="being started"):
            asked(client, "hello", seconds=0.05)
    assert client.starts == 1, "a call that gave up did not end it"


def test_a_lane_that_an_interrupt_lost_does_not_stop_the_others_for_ever(apart: Open) -> None:
    client = apart(lanes=1)
    asked(client, "hello")
    lost = client._take(soon())  # as an interrupt between two steps of a call leaves it
    with pytest.raises(FailedError, match="busy"):
        asked(client, "hello", seconds=0.1)
    assert asked(client, "hello")[0] == "hello"
    del lost  # until here: its socket's end would end the process first


def test_an_interrupted_call_leaves_no_answer_for_the_next_one(apart: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = apart(lanes=1)
    asked(client, "hello")
    with monkeypatch.context() as patch:
        patch.setattr("lms_tiers.apart.process.Lane.answer", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            asked(client, "hello", "first")
    assert asked(client, "hello", "second")[1] == "second"


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_close_ends_the_process_and_calls_that_wait(apart: Open) -> None:
    client = apart(lanes=1)
    pid, raised = asked(client, "hello")[-1], list[FailedError]()

    def call() -> None:
        try:
            asked(client, "hang")
        except FailedError as error:
            raised.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    client.close()
    for thread in threads:
        thread.join()
    assert ended(pid)
    assert len(raised) == 3
    client.close()
    with pytest.raises(FailedError, match="closed"):
        asked(client, "hello")


def test_an_error_that_is_kept_keeps_no_descriptor(apart: Open) -> None:
    client = apart(fault="no such library")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FailedError):
        asked(client, "hello")
    try:
        asked(client, "hello")
    except FailedError as error:
        kept = error
    assert set(os.listdir("/proc/self/fd")) <= before
    assert "no such library" in str(kept)


def test_one_that_is_forgotten_ends_its_process(apart: Open, tmp_path: Path) -> None:
    client = Apart(tmp_path / "program.py", {"fault": "", "hangs": ""}, {}, 4096, 2)
    pid = asked(client, "hello")[-1]
    del client
    assert ended(pid)


def test_a_forked_child_that_ends_leaves_its_parents_process_alone(apart: Open) -> None:
    client = apart()
    pid = asked(client, "hello")[-1]
    child = os.fork()
    if child == 0:
        client.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert asked(client, "hello")[-1] == pid
