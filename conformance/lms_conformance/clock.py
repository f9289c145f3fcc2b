"""Clocks that are moved for a backend's own modules: a chunk lies for months while a property takes milliseconds.

Only what those modules read is moved: `time` as they imported it, or functions of it. Waits of the standard library,
the kit's own, and other packages' clocks go on as they were.
"""

from __future__ import annotations

import contextlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

from lms_conformance.preempt import own_files
from lms_tiers.interface import LMSBackendInterface

#: Functions of `time`: whether it is the wall's, and how many of its units a second has.
_CLOCKS: Final = {
    "time": (True, 1),
    "time_ns": (True, 1_000_000_000),
    "monotonic": (False, 1),
    "monotonic_ns": (False, 1_000_000_000),
}


class Clock:
    """How far the clocks are moved.

    Attributes
    ----------
    wall, monotonic : float
        Seconds. The monotonic clock never goes back while a backend is open.
    """

    def __init__(self) -> None:
        self.wall = self.monotonic = 0.0

    def _moved(self, name: str) -> Callable[[], Any]:
        real, (of_wall, units) = getattr(time, name), _CLOCKS[name]

        def read() -> Any:
            now = real() + (self.wall if of_wall else self.monotonic) * units
            return int(now) if units > 1 else now

        return read

    def module(self) -> types.ModuleType:
        """`time`, moved."""
        moved = types.ModuleType("time")
        vars(moved).update(vars(time))
        vars(moved).update({name: self._moved(name) for name in _CLOCKS})
        return moved


@contextlib.contextmanager
def moved_clock(backend: LMSBackendInterface) -> Iterator[Clock]:
    """A clock that the block may move for the modules of `backend`; it has to be closed inside the block."""
    clock, files, kept = Clock(), own_files(backend), list[tuple[dict[str, Any], str, Any]]()
    instead = {id(getattr(time, name)): clock._moved(name) for name in _CLOCKS} | {id(time): clock.module()}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or not any(file.startswith(prefix) for prefix in files):
            continue
        names = vars(module)
        for name, value in list(names.items()):
            if (other := instead.get(id(value))) is not None:
                kept.append((names, name, value))
                names[name] = other
    try:
        yield clock
    finally:
        for names, name, value in kept:
            names[name] = value
