"""`Apart`: this side of a process that holds a library; `lms_tiers.apart.child` is the other.

Each call has a lane to itself: a socket to that process, and a part of the memory that both share. A call that is late,
or that was interrupted, ends the process: what it was about to do it does no more. The next call starts another.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final

from lms_tiers.apart import child
from lms_tiers.apart.child import hear, pack

#: Seconds that a process may take to start and connect.
START: Final = 30.0
#: Seconds without another attempt after one that failed.
_REST: Final = 1.0


class FailedError(Exception):
    """A request was not answered; nothing was sent where `sent` is False."""

    def __init__(self, reason: str, sent: bool = False) -> None:
        self.sent = sent
        super().__init__(reason)


class Lane:
    """One request at a time, and the memory that it may use."""

    def __init__(self, sock: socket.socket, memory: memoryview) -> None:
        self.memory: Final = memory
        self.socket: Final = sock
        self.ready = False
        self.whole = True  # no answer is on its way
        weakref.finalize(self, sock.close)  # also of one that an interrupt lost

    def close(self) -> None:
        """Give back what it has, whoever still knows it: errors keep what their calls had at hand."""
        self.socket.close()
        with contextlib.suppress(BufferError):
            self.memory.release()

    def ask(self, until: float, *message: Any) -> Any:
        """What the library answers.

        Raises
        ------
        FailedError
            It raised `OSError`, is late, or has ended.
        """
        self.whole = False
        try:
            self._patience(until)
            self.socket.sendall(pack(message))
            answer = self.answer(until)
        except TimeoutError:
            raise FailedError("it did not answer in time", True) from None
        except OSError as error:
            raise FailedError(f"its process ended ({error.strerror or error})", True) from None
        if isinstance(answer, str):
            raise FailedError(answer, True)
        return answer[0]

    def answer(self, until: float) -> Any:
        """The next message of the process."""

        def receive(size: int) -> bytes:
            self._patience(until)
            return self.socket.recv(size)

        answer = hear(receive)
        self.whole = True
        return answer

    def _patience(self, until: float) -> None:
        self.socket.settimeout(max(until - time.monotonic(), 1e-3))


class _Process:
    """One process with its lanes; ended at the latest when nobody knows it any more."""

    def __init__(
        self, program: Path, told: Mapping[str, Any], environment: Mapping[str, str], room: int, lanes: int
    ) -> None:
        self.born: Final = time.monotonic()
        fd = os.memfd_create(program.name)
        pairs = [socket.socketpair() for _ in range(lanes)]
        try:
            os.ftruncate(fd, room * lanes)
            self._map: Final = mmap.mmap(fd, room * lanes)
            fds = [theirs.fileno() for _, theirs in pairs]
            given = {"program": str(program), "room": room}
            self._child: Final = subprocess.Popen(
                [sys.executable, "-P", child.__file__, json.dumps({**told, **given, "memory": fd, "lanes": fds})],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(fd, *fds),
                start_new_session=True, env={**os.environ, **environment},
            )  # fmt: skip
        except BaseException:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            os.close(fd)
            for _, theirs in pairs:
                theirs.close()
        with memoryview(self._map) as memory:
            self.free: Final = [Lane(ours, memory[i * room : (i + 1) * room]) for i, (ours, _) in enumerate(pairs)]
        self.kill: Final = weakref.finalize(self, _end, os.getpid(), self._child)

    def end(self, used: Lane | None = None) -> None:
        """Kill it; its free lanes are closed, and the one that the caller has."""
        self.kill()
        while self.free:
            self.free.pop().close()
        if used is not None:
            used.close()
        with contextlib.suppress(BufferError):  # others have lanes still
            self._map.close()

    @property
    def runs(self) -> bool:
        """Whether it has not ended by itself."""
        return self._child.poll() is None


def _end(parent: int, child: subprocess.Popen[bytes]) -> None:
    if os.getpid() == parent:  # a forked child has copies
        child.kill()  # whoever uses a lane reads its end
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_REST)
    if child.stdin is not None:
        child.stdin.close()


class Apart:
    """Lanes to a process that is there when one is needed.

    Parameters
    ----------
    program : pathlib.Path
        A file of Python, which needs nothing but what it imports itself, with a function `start`.
    told : mapping of str to str
        What it is started with.
    environment : mapping of str to str
        Variables of its own.
    room : int
        Bytes of memory of a lane.
    lanes : int

    Attributes
    ----------
    starts : int
        Processes started so far.
    """

    def __init__(
        self, program: Path, told: Mapping[str, str], environment: Mapping[str, str], room: int, lanes: int
    ) -> None:
        self._given: Final = program, dict(told), dict(environment), room, lanes
        self._change: Final = threading.Condition()
        self._process: _Process | None = None
        self._rests_until = 0.0
        self._fault = ""
        self._returns = 0
        self.starts = 0
        self.closed = False

    @contextlib.contextmanager
    def lane(self, until: float) -> Iterator[Lane]:
        """A lane of one's own for the block, in which requests are asked.

        Raises
        ------
        FailedError
            None is free, or none can be made, before `until`; or it is closed.
        """
        process, lane = self._take(until)
        try:
            if not lane.ready:
                self._await(process, lane, until)
            yield lane
        finally:
            with self._change:
                kept = lane.whole and self._process is process
                if kept:
                    process.free.append(lane)
                    self._returns += 1
                    self._change.notify()
            if not kept:
                self._drop(process, lane)

    def _take(self, until: float) -> tuple[_Process, Lane]:
        with self._change:
            returns = self._returns
            while True:
                process = self._running()
                if process.free:
                    return process, process.free.pop()
                if not self._change.wait(max(until - time.monotonic(), 0)) and time.monotonic() >= until:
                    break
            stuck = returns == self._returns  # whoever has the lanes is late, or was interrupted before it used them
        if stuck:
            self._drop(process)
        raise FailedError("it is busy with other calls")

    def _running(self) -> _Process:
        if self.closed:
            raise FailedError("it is closed")
        if self._process is not None and not self._process.runs:
            self._process.end()
            self._process = None
        if self._process is None:
            if time.monotonic() < self._rests_until:
                raise FailedError(self._fault)
            self._process = _Process(*self._given)
            self.starts += 1
        return self._process

    def _await(self, process: _Process, lane: Lane, until: float) -> None:
        """Wait for a new process to say that it is connected; it may take longer than one call."""
        until_ready = min(until, process.born + START)
        if not wait([lane.socket], max(until_ready - time.monotonic(), 0)):
            if time.monotonic() >= process.born + START:
                lane.whole = False
            raise FailedError("it is being started")
        lane.whole = False
        try:
            fault = lane.answer(process.born + START)
        except OSError:
            fault = "it ended while it started"
        if fault:
            lane.whole = False
            with self._change:
                self._fault, self._rests_until = fault, time.monotonic() + _REST
            raise FailedError(fault)
        lane.ready = True

    def _drop(self, process: _Process, used: Lane | None = None) -> None:
        with self._change:
            if self._process is process:
                self._process = None
            self._change.notify_all()
            process.end(used)

    def close(self) -> None:
        """End the process; calls that are running and later ones raise `FailedError`."""
        with self._change:
            self.closed = True
            process, self._process = self._process, None
            self._change.notify_all()
            if process is not None:
                process.end()
