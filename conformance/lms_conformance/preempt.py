"""Preemption between opcodes of a backend's own Python frames: races that plain threads never show appear in seconds.

It reaches Python frames only. Native code is given barriers, large values and repetition instead.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lms_tiers.interface import LMSBackendInterface


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


def _classes(backend: LMSBackendInterface) -> Iterator[type]:
    yield from (c for c in type(backend).__mro__ if c.__module__ not in ("builtins", "abc"))
    inner = getattr(backend, "inner", None)
    if isinstance(inner, LMSBackendInterface):
        yield from _classes(inner)


@contextlib.contextmanager
def preempted(files: tuple[str, ...], rng: random.Random, often: float) -> Iterator[None]:
    """In this thread, give way at random between opcodes of code from `files`.

    Parameters
    ----------
    files : tuple of str
        Path prefixes.
    rng : random.Random
        This thread's own.
    often : float
        Probability per opcode.
    """
    naps = (0.0, 0.0, 0.0, 2e-5, 2e-4)

    def inside(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and rng.random() < often:
            # Sleeping gives the interpreter's lock away in the middle of the backend's code.
            time.sleep(rng.choice(naps))
        return inside

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename.startswith(files):
            frame.f_trace_opcodes = True
            return inside
        return None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
