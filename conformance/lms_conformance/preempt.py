"""Threads that take turns between opcodes of a backend's own Python frames: races that plain threads never show.

One thread runs at a time, and for how many opcodes, and who is next, is drawn: the same seed gives the same order on a
busy machine and on an idle one. It reaches Python frames only; a thread that waits in native code, or for a lock that
another one holds, loses its turn. Native code is given barriers, large values and repetition instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import platform
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from lms_tiers.interface import LMSBackendInterface

#: Seconds between two looks at a thread that has the turn and runs no opcode of the backend.
LOOK: Final = 1e-4

#: Looks for which a thread must have slept to be at rest: for another thread, whose turn it is then, or for something
#: else that the system may be about to answer.
FOR_A_THREAD: Final = 1
FOR_THE_SYSTEM: Final = 5

#: Numbers of the system call that waits for another thread.
_FUTEX: Final = {"x86_64": 202, "aarch64": 98}
_MACHINE: Final = platform.machine()

#: Seconds after which a thread that waits for the interpreter wakes and asks for it again, between two looks.
SWITCH: Final = LOOK / 3

#: Looks after which it loses the turn although it has run between them: native code that spins.
LOOKS: Final = 1000

#: Longest turn, in opcodes: enough for a whole call; most turns are short.
LONGEST: Final = 400

#: The last opcodes of a turn are counted one by one, up to so many. What comes before them is counted by lines, of so
#: many opcodes each: the interpreter copies a frame's variables for each event, which is dearer than most opcodes.
FINE: Final = 32
LINE: Final = 8


def own_files(backend: LMSBackendInterface) -> tuple[str, ...]:
    """Path prefixes of the code that is the backend's own: the packages of its classes and of what they hold."""
    prefixes: set[str] = set()
    for cls in (*_classes(backend),):
        module = sys.modules.get(cls.__module__)
        file = getattr(module, "__file__", None)
        if cls is LMSBackendInterface or file is None:
            continue
        top = cls.__module__.partition(".")[0]
        root = getattr(sys.modules.get(top), "__file__", None)
        if top == "lms_conformance" or root is None or not root.endswith("__init__.py"):
            prefixes.add(str(file))
        else:
            prefixes.add(str(Path(root).parent))
    return tuple(sorted(prefixes))


def outermost(backend: LMSBackendInterface) -> tuple[str, ...]:
    """The file of the backend's own class alone: what it calls runs as one step. Nothing where it came from no file."""
    file = getattr(sys.modules.get(type(backend).__module__), "__file__", None)
    return () if file is None else (str(file),)


def _classes(backend: LMSBackendInterface) -> Iterator[type]:
    yield from (c for c in type(backend).__mro__ if c.__module__ not in ("builtins", "abc"))
    inner = getattr(backend, "inner", None)
    if isinstance(inner, LMSBackendInterface):
        yield from _classes(inner)


@contextlib.contextmanager
def hasty() -> Iterator[None]:
    """The block in which who waits for the interpreter is told from who waits for a lock; see `Watch`."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Watch:
    """Tells, look by look, whether a thread waits for something else than a processor or the interpreter.

    Who waits for the interpreter sleeps too, but wakes each `SWITCH` seconds: it is another sleep at the next look. Or
    it waits for what guards the interpreter's lock, while its holder waits for a processor: that is told by where.
    """

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._looks = 0

    def rests(self, native: int) -> bool:
        """Whether thread `native` sleeps, and did at as many looks before this one as it must; or has ended."""
        slept, needed = _sleeps(native)
        last, self._last = self._last, None if slept is None else (native, slept)
        self._looks = self._looks + 1 if self._last is not None and self._last == last else 0
        return self._looks >= needed


def _sleeps(native: int) -> tuple[int | None, int]:
    """How often a thread has fallen asleep, None where it is awake or sleeps for the interpreter; and looks it must."""
    task = Path(f"/proc/self/task/{native}")
    try:
        text = (task / "status").read_text(encoding="ascii", errors="replace")
        told = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        call, at = _waits_at(task)
        if told["State"].startswith("R") or at in _interpreter():
            return None, 1
        return int(told["voluntary_ctxt_switches"]), FOR_A_THREAD if call == _FUTEX.get(_MACHINE) else FOR_THE_SYSTEM
    except (FileNotFoundError, ProcessLookupError):
        return -1, 1


def _waits_at(task: Path) -> tuple[int, int]:
    """The system call in which a thread waits and the address at which, of a futex the lock's; 0 where nobody says."""
    try:
        words = (task / "syscall").read_text(encoding="ascii").split()
        return int(words[0]), int(words[1], 16)
    except (OSError, IndexError, ValueError):
        return 0, 0


@functools.cache
def _interpreter() -> range:
    """Addresses of the interpreter's own state, of which its lock is part; locks of programs lie elsewhere."""
    at = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    for line in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines():
        begin, end = (int(address, 16) for address in line.split()[0].split("-"))
        if begin <= at < end:
            return range(at, end)
    return range(0)


class Turns:
    """The turns of some threads.

    Parameters
    ----------
    files : tuple of str
        Path prefixes of the code in which a turn may end.
    threads : int
        How many take turns; the first turn begins when all of them are there.
    rng : random.Random
        Drawn from by whoever has the turn.
    """

    def __init__(self, files: tuple[str, ...], threads: int, rng: random.Random) -> None:
        self._files = files
        self._missing = threads
        self._rng = rng
        self._changed = threading.Condition()
        self._here: list[int] = []
        self._natives: dict[int, int] = {}
        self._clocks: dict[int, int] = {}
        self._between = set(range(threads))  # those that wait for a turn, or hand it on: for nothing of the backend
        self._hasty = hasty()  # from the first turn to the last
        self._turn: int | None = None
        self._lines = 0
        self._left = 0
        self._events = 0

    @contextlib.contextmanager
    def of(self, me: int) -> Iterator[None]:
        """The block of thread number `me`."""

        def inside(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode" or event == "line":
                self._events += 1
                if self._turn != me:
                    self._wait(me)
                if self._lines:
                    self._lines -= event == "line"
                else:
                    self._left -= 1
                    if self._left <= 0:
                        self._give_way(me)
                frame.f_trace_lines = coarse = self._lines > 0
                frame.f_trace_opcodes = not coarse
            return inside

        def enter(frame: FrameType, event: str, arg: Any) -> Any:
            if not frame.f_code.co_filename.startswith(self._files):
                return None
            frame.f_trace_lines = coarse = self._lines > 0
            frame.f_trace_opcodes = not coarse
            return inside

        self._join(me)
        before = sys.gettrace()
        sys.settrace(enter)
        try:
            yield
        finally:
            sys.settrace(before)
            self._leave(me)

    def _join(self, me: int) -> None:
        with self._changed:
            self._here.append(me)
            self._natives[me] = threading.get_native_id()
            self._clocks[me] = time.pthread_getcpuclockid(threading.get_ident())
            self._missing -= 1
            if not self._missing:
                self._hasty.__enter__()
                self._here.sort()
                self._next(self._here)
            while self._missing:
                self._changed.wait()
        self._wait(me)

    def _leave(self, me: int) -> None:
        self._between.add(me)
        with self._changed:
            self._here.remove(me)
            if not self._here:
                self._hasty.__exit__(None, None, None)
            if self._turn == me:
                self._next(self._here)

    def _give_way(self, me: int) -> None:
        self._between.add(me)
        with self._changed:
            if self._turn == me:
                self._next([other for other in self._here if other != me] or [me])
        self._wait(me)

    def _next(self, candidates: list[int]) -> None:
        """Draw who is next, and for how many opcodes: as many turns of 4 to 8 as of 128 to 256."""
        self._turn = self._rng.choice(candidates) if candidates else None
        length = int(math.exp(self._rng.uniform(0, math.log(LONGEST))))
        self._left = length if length <= FINE else self._rng.randint(1, FINE)
        self._lines = (length - self._left) // LINE
        self._changed.notify_all()

    def _wait(self, me: int) -> None:
        self._between.add(me)
        with self._changed:
            looks, used, watch = 0, 0.0, Watch()
            seen = self._events
            while self._turn != me:
                if self._changed.wait(LOOK) or self._events != seen or self._turn is None:
                    looks, used, watch = 0, 0.0, Watch()
                    seen = self._events
                    continue
                if self._turn in self._between:
                    continue
                # A thread that the machine is too busy to run does not spin.
                before, used = used, time.clock_gettime(self._clocks[self._turn])
                looks += used != before
                if watch.rests(self._natives[self._turn]) or looks == LOOKS:
                    self._next([me])
        self._between.discard(me)
