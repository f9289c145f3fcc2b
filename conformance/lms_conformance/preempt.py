"""Threads that take turns between opcodes of a backend's own Python frames: races that plain threads never show.

One thread runs at a time, and for how many opcodes, and who is next, is drawn: the same seed gives the same order on a
busy machine and on an idle one. It reaches Python frames only; a thread that waits in native code, or for a lock that
another one holds, loses its turn. Native code is given barriers, large values and repetition instead.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from lms_tiers.interface import LMSBackendInterface

#: Seconds between two looks at a thread that has the turn and runs no opcode of the backend.
LOOK: Final = 5e-4

#: Looks after which it loses the turn although it runs: native code that spins.
LOOKS: Final = 200

#: Longest turn, in opcodes: enough for a whole call; most turns are short.
LONGEST: Final = 400


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
        self._turn: int | None = None
        self._left = 0
        self._opcodes = 0

    @contextlib.contextmanager
    def of(self, me: int) -> Iterator[None]:
        """The block of thread number `me`."""

        def inside(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode":
                self._opcodes += 1
                if self._turn != me:
                    self._wait(me)
                self._left -= 1
                if self._left <= 0:
                    self._give_way(me)
            return inside

        def enter(frame: FrameType, event: str, arg: Any) -> Any:
            if not frame.f_code.co_filename.startswith(self._files):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
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
            self._missing -= 1
            if not self._missing:
                self._here.sort()
                self._next(self._here)
            while self._missing:
                self._changed.wait()
        self._wait(me)

    def _leave(self, me: int) -> None:
        with self._changed:
            self._here.remove(me)
            if self._turn == me:
                self._next(self._here)

    def _give_way(self, me: int) -> None:
        with self._changed:
            if self._turn == me:
                self._next([other for other in self._here if other != me] or [me])
        self._wait(me)

    def _next(self, candidates: list[int]) -> None:
        """Draw who is next, and for how many opcodes: as many turns of 4 to 8 as of 128 to 256."""
        self._turn = self._rng.choice(candidates) if candidates else None
        self._left = int(math.exp(self._rng.uniform(0, math.log(LONGEST))))
        self._changed.notify_all()

    def _wait(self, me: int) -> None:
        with self._changed:
            looks = asleep = 0
            seen = self._opcodes
            while self._turn != me:
                if self._changed.wait(LOOK) or self._opcodes != seen or self._turn is None:
                    looks = asleep = 0
                    seen = self._opcodes
                    continue
                looks += 1
                # A thread that only waits for the interpreter, which this one has now, seems asleep once, not twice.
                asleep = asleep + 1 if sleeps(self._natives[self._turn]) else 0
                if asleep == 2 or looks == LOOKS:
                    self._next([me])


def sleeps(native: int) -> bool:
    """Whether a thread waits for something else than a processor."""
    try:
        text = Path(f"/proc/self/task/{native}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] != "R"
