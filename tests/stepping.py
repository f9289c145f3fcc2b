"""Stops a thread before one of its opcodes, lets another do meanwhile what it can, and goes on: at every place in turn.

What a thread looks at and what it does next are told apart this way, however fast the machine is. Where another thread
is taken for waiting that only was slow, the stopped one goes on early: a test proves less then, and does not fail.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds until what never comes is an error.
PATIENCE = 60.0

#: Seconds between two looks at a thread.
LOOK = 0.001

#: Looks in a row that find the test's own thread asleep before its call: it waits for the thread that stands.
WAITS = 20


class Stop:
    """The thread whose name begins with `thread` stops before opcode number `nth` of some functions of a file, once.

    Opcodes count from `arm` on. Threads are seen that start inside the block of `each_stop`.
    """

    def __init__(self, file: str, functions: Collection[str], thread: str, nth: int, armed: bool) -> None:
        self._file = file
        self._functions = functions
        self._thread = thread
        self.nth = nth
        self._armed = armed
        self._seen = 0
        self._natives: list[int] = []
        self._tester = threading.get_native_id()
        self._reached = threading.Event()
        self._go = threading.Event()

    @property
    def reached(self) -> bool:
        """Whether it came to that opcode."""
        return self._reached.is_set()

    def arm(self) -> None:
        """Count from here on."""
        self._armed = True

    def go(self) -> None:
        """Let it go on."""
        self._go.set()

    def beside(self, call: Callable[[], T]) -> T:
        """What `call` answers, made while the thread stands, or waits; where the call itself waits, the thread goes on."""
        self._tester = 0
        self._until(lambda: self.reached or (bool(self._natives) and all(map(_asleep, self._natives))))
        answers: list[T] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                answers.append(call())
            except BaseException as error:  # for the caller
                raised.append(error)

        other = threading.Thread(target=run, name="beside")
        other.start()
        self._until(lambda: not other.is_alive() or _asleep(other.native_id or 0))
        self.go()
        other.join(PATIENCE)
        assert not other.is_alive(), f"stopped at opcode {self.nth}, it never let the other thread go on"
        if raised:
            raise raised[0]
        return answers[0]

    @staticmethod
    def _until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        pause = threading.Event()
        times = 0
        while times < 2:  # a thread that waits for the interpreter, which this one has, seems asleep once
            times = times + 1 if condition() else 0
            assert time.monotonic() < deadline, "it never happened"
            pause.wait(LOOK)

    # -- on the threads ----------------------------------------------------------------------------------------------

    def enter_thread(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The first event of a thread: trace it, or leave it alone."""
        if not threading.current_thread().name.startswith(self._thread):
            sys.settrace(None)
            return None
        self._natives.append(threading.get_native_id())
        sys.settrace(self._enter)
        return self._enter(frame, event, arg)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code.co_filename != self._file or code.co_name not in self._functions:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._inside

    def _inside(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and self._armed and not self.reached:
            self._seen += 1
            if self._seen == self.nth:
                self._reached.set()
                self._stand()
        return self._inside

    def _stand(self) -> None:
        """Wait to be let go on; not for a test that waits for this thread, for a lock it holds, and comes to no call."""
        asleep = 0
        while asleep < WAITS and self._tester and not self._go.wait(LOOK):
            asleep = asleep + 1 if _asleep(self._tester) else 0
        if asleep < WAITS:
            self._go.wait(PATIENCE)


def until_it_waits(thread: threading.Thread) -> None:
    """Return when `thread` has ended, or waits for something else than a processor."""
    Stop._until(lambda: not thread.is_alive() or _asleep(thread.native_id or 0))


def each_stop(
    file: str, functions: Collection[str], thread: str, *, stride: int = 1, armed: bool = True
) -> Iterator[Stop]:
    """One stop after the other, until a run does not come so far any more."""
    nth = 1
    while True:
        stop = Stop(file, functions, thread, nth, armed)
        threading.settrace(stop.enter_thread)
        try:
            yield stop
        finally:
            threading.settrace(None)
            stop.go()
        if not stop.reached:
            assert nth > 1, "no thread of that name came by"
            return
        nth += stride


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """No other thread gets the interpreter meanwhile, unless this one waits for something."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _asleep(native: int) -> bool:
    """Whether a thread of this process has ended, or waits for something else than a processor."""
    try:
        text = Path(f"/proc/self/task/{native}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] not in "RD"
