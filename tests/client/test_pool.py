"""A pool's places come back, whatever is raised while one is taken, used or given back."""

from __future__ import annotations

import contextlib
import dis
import functools
import itertools
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend, OpaqueKey
from lms_tiers.client import Client, pool
from lms_tiers.client.address import Address
from lms_tiers.errors import ConfigError, StorageUnavailableError

SIZE = 2


class Line:
    """A connection that reaches nobody."""

    alive = True
    peer = ""
    until: float | None = None
    fault: BaseException | None = None

    def __init__(self, *_: Any) -> None:
        if Line.fault is not None:
            raise Line.fault
        self.closed = False

    def close(self) -> None:
        self.closed = True

    abort = close


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[pool.Pool]:
    monkeypatch.setattr(pool, "Link", Line)
    made = pool.Pool(Address("host", 1), SIZE, 1, 0, None, extension=False)
    yield made
    Line.fault = None
    made.close()


def all_places(made: pool.Pool) -> None:
    """Every place can be lent, and not one more."""
    with contextlib.ExitStack() as held:
        lent = [held.enter_context(made.lend()) for _ in range(SIZE)]
        assert len(set(map(id, lent))) == SIZE
        with pytest.raises(StorageUnavailableError, match="every connection is in use"), made.lend():
            pass


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError, UnicodeError, ValueError, RuntimeError])
def test_a_connect_that_ends_by_any_error_gives_its_place_back(lines: pool.Pool, kind: type[BaseException]) -> None:
    for _ in range(SIZE + 1):
        Line.fault = kind("in connect")
        with pytest.raises(kind), lines.lend():
            pass
    Line.fault = None
    all_places(lines)


@functools.cache
def looks(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which Python may look for a signal."""
    found: set[int] = set()
    ops = [op for op in dis.get_instructions(code) if op.opname != "CACHE"]
    for op, following in itertools.pairwise(ops):
        if op.opname.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
            found.add(following.offset)
    return frozenset(found)


class Interrupt:
    """Raises `KeyboardInterrupt` at the n-th place in the pool's own code where a signal would."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __enter__(self) -> None:
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != pool.__file__:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode" and frame.f_lasti in looks(frame.f_code):
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._step


def _lent(made: pool.Pool, at: int) -> bool:
    """Whether a whole loan was over before the interrupt number `at`."""
    try:
        with Interrupt(at), made.lend():
            pass
    except KeyboardInterrupt:
        return False
    return True


@pytest.mark.parametrize("warm", [False, True], ids=["connecting", "lent before"])
def test_an_interrupt_anywhere_in_a_loan_leaves_every_place(
    lines: pool.Pool, monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    before = sys.gettrace()
    try:
        at = 1
        while True:
            lines._free.clear()
            if warm:
                all_places(lines)
            if _lent(lines, at):
                break
            all_places(lines)
            at += 1
    finally:
        sys.settrace(before)
    assert at > 15


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "\ud800x", "é" * 70])
def test_a_host_that_idna_refuses_is_a_typed_error_that_names_it(host: str) -> None:
    for lazy in (False, True):
        with pytest.raises(ConfigError) as raised:
            Client(f"lm://{host}:1", lazy=lazy).get(OpaqueKey("k"))
        assert repr(host) in str(raised.value)
    with pytest.raises(ConfigError):
        CreateStorageBackend(f"lm:{host}:1")
    with pytest.raises(ConfigError):
        Address("", 0, "/run/\ud800")
