"""Histories of concurrent calls, and whether one order of them explains every answer (Wing and Gong, per key)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

#: The answer of a `get` that found nothing, or the state of a key that is not held.
ABSENT = None


@dataclass(slots=True)
class Call:
    """One call on one key: when it began and ended (by a shared counter), and what it said.

    Attributes
    ----------
    kind : {"put", "get", "contains", "remove"}
    key : str
    value : int or None
        Number of the value put, or got; for `contains` 1 or 0.
    """

    thread: int
    kind: str
    key: str
    value: int | None
    began: int
    ended: int

    def __str__(self) -> str:
        match self.kind:
            case "put":
                what = f"put({self.key!r}, v{self.value})"
            case "remove":
                what = f"remove({self.key!r})"
            case "contains":
                what = f"contains({self.key!r}) -> {bool(self.value)}"
            case _:
                what = f"get({self.key!r}) -> {'None' if self.value is ABSENT else f'v{self.value}'}"
        return f"thread {self.thread} [{self.began:>3}, {self.ended:>3}] {what}"


@dataclass(slots=True)
class History:
    """What several threads called; appending is safe from any thread.

    Attributes
    ----------
    calls : list of Call
    clock : callable
        Tells the moments; `time.monotonic_ns` where several processes take part.
    """

    calls: list[Call] = field(default_factory=list)
    clock: Callable[[], int] = field(default_factory=lambda: itertools.count().__next__)

    def now(self) -> int:
        """The next moment; two calls overlap where their moments interleave."""
        return self.clock()

    def add(self, thread: int, kind: str, key: str, value: int | None, began: int) -> None:
        """Note a call that has just ended."""
        self.calls.append(Call(thread, kind, key, value, began, self.now()))

    def by_key(self) -> dict[str, list[Call]]:
        """Calls of each key, by their beginning."""
        found: dict[str, list[Call]] = {}
        for call in sorted(self.calls, key=lambda c: c.began):
            found.setdefault(call.key, []).append(call)
        return found

    def overlapped(self) -> bool:
        """Whether calls of two threads were on their way at one time."""
        calls = sorted(self.calls, key=lambda c: c.began)
        return any(
            later.began < earlier.ended and later.thread != earlier.thread
            for i, earlier in enumerate(calls)
            for later in calls[i + 1 :]
        )

    def missed(self) -> bool:
        """Whether a chunk that had been put was missed later, though nobody removed it."""
        for calls in self.by_key().values():
            first = min((c.ended for c in calls if c.kind == "put"), default=None)
            if first is None or any(c.kind == "remove" for c in calls):
                continue
            if any(c.kind in ("get", "contains") and c.began > first and not c.value for c in calls):
                return True
        return False

    def contradiction(self, *, evicts: bool = False) -> list[Call] | None:
        """The calls on a key that no order explains, or None."""
        for calls in self.by_key().values():
            if not linearizable(calls, evicts=evicts):
                return calls
        return None


def linearizable(calls: Sequence[Call], *, evicts: bool = False) -> bool:
    """Whether some order of the calls, in which none comes before one that had ended, explains every answer.

    Parameters
    ----------
    calls : sequence of Call
        All on one key that was absent at first.
    evicts : bool
        The key may vanish at any moment: a miss is always explained, and leaves the key absent.
    """
    n = len(calls)
    full = (1 << n) - 1
    seen: set[tuple[int, int | None]] = set()
    stack: list[tuple[int, int | None]] = [(0, ABSENT)]
    while stack:
        done, state = stack.pop()
        if done == full:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        # A call may come next when no call that is still to come had ended before it began.
        first_end = min(c.ended for i, c in enumerate(calls) if not done >> i & 1)
        for i, call in enumerate(calls):
            if done >> i & 1 or call.began > first_end:
                continue
            for after in _after(call, state, evicts):
                stack.append((done | 1 << i, after))
    return False


def _after(call: Call, state: int | None, evicts: bool) -> list[int | None]:
    match call.kind:
        case "put":
            return [call.value]
        case "remove":
            return [ABSENT]
        case "contains":
            matches = bool(call.value) == (state is not ABSENT)
        case _:
            matches = call.value == state
    if matches:
        return [state]
    missed = not call.value if call.kind == "contains" else call.value is ABSENT
    return [ABSENT] if evicts and missed else []


def smaller(program: Sequence[Sequence[Any]], fails: Callable[[list[list[Any]]], bool]) -> list[list[Any]]:
    """Threads' programs with operations left out as long as `fails` still says so."""
    current = [list(thread) for thread in program]
    changed = True
    while changed:
        changed = False
        for t, i in [(u, j) for u in range(len(current)) for j in range(len(current[u]))]:
            candidate = [ops[:i] + ops[i + 1 :] if t == u else list(ops) for u, ops in enumerate(current)]
            if fails(candidate):
                current, changed = candidate, True
                break
    return current
