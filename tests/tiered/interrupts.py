"""An interrupt at any chosen opcode of the package, as a signal would raise it."""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import lms_tiers

ROOT = Path(lms_tiers.__file__).parent

#: Where interrupts are raised: the store, its policies, and the backends whose bytes are in memory.
PLACES = tuple(str(ROOT / part) for part in ("tiered", "policies", "arena", "plugins/pinned", "plugins/cpu.py"))


@functools.cache
def spared(code: CodeType) -> frozenset[int]:
    """Offsets at which Python never looks for a signal, and where no program could mend what that would do.

    These are the ways out of `with` blocks, from the end of the block to the call of `__exit__`: what was taken by the
    block is still taken, and no handler holds any more. The `try` that begins a block of `with` is a NOP, which has none
    either.
    """
    found: set[int] = set()
    ops = [op for op in dis.get_instructions(code) if op.opname != "CACHE"]
    for i, op in enumerate(ops):
        three = ops[i : i + 3]
        if len(three) == 3 and all(o.opname == "LOAD_CONST" and o.argval is None for o in three):
            j = i + 3
            while j < len(ops) and ops[j].opname in ("PRECALL", "CALL", "CALL_FUNCTION"):
                j += 1
            while ops[i - 1].opname in ("SWAP", "NOP"):  # the value of a `return`
                i -= 1
            found.update(o.offset for o in ops[i:j])
        if op.opname == "NOP":
            found.add(op.offset)
        if op.opname == "WITH_EXCEPT_START":
            found.update(o.offset for o in ops[i - 1 : i + 1])
    return frozenset(found)


class Interrupt:
    """How far a run has come: opcodes counted, and whether the interrupt has come."""

    def __init__(self, at: int, places: tuple[str, ...]) -> None:
        self.at = at
        self.places = places
        self.passed = 0
        self.where = ""

    def step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and frame.f_lasti not in spared(frame.f_code):
            self.passed += 1
            if self.passed == self.at:
                code = frame.f_code
                self.where = f"{code.co_filename}:{frame.f_lineno} ({code.co_qualname}, offset {frame.f_lasti})"
                raise KeyboardInterrupt(self.where)
        return self.step

    def enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename.startswith(self.places):
            frame.f_trace_opcodes = True
            return self.step
        return None


@contextlib.contextmanager
def interrupted(at: int, places: tuple[str, ...] = PLACES) -> Iterator[Interrupt]:
    """The calls of this thread within the block are interrupted before opcode `at`; what that raises ends here."""
    interrupt = Interrupt(at, places)
    before = sys.gettrace()
    sys.settrace(interrupt.enter)
    try:
        yield interrupt
    except KeyboardInterrupt:
        assert interrupt.where, "another interrupt"
    finally:
        sys.settrace(before)
