"""Tasks that LMCache hands in: each is one or more jobs, and has one result, put down before anybody is told.

A result is given once. LMCache does not ask for those of requests it has given up: they expire.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lms_tiers.doors.jobs import Jobs, Queue, Result, Work
from lms_tiers.errors import BackendClosedError

#: Seconds after which a result is not asked for any more: longer than LMCache's own locks last.
_KEPT: Final = 900.0


class Kind(enum.Enum):
    """What a task does."""

    STORE = enum.auto()
    LOOKUP = enum.auto()
    LOAD = enum.auto()


@dataclass(slots=True)
class Task:
    """How far a task has got.

    Attributes
    ----------
    left : int
        Jobs of it that have not ended.
    succeeded : list of bool
        For each key.
    nbytes : int
    down : float
        When its result was put down, by the clock.
    """

    number: int
    kind: Kind
    left: int
    succeeded: list[bool]
    nbytes: int = 0
    down: float = 0.0


class Tasks:
    """The tasks of one adapter.

    Parameters
    ----------
    name : str
        Of the threads.
    workers : int
        Threads that transfer; look-ups and unlocks have one of their own, and so wait for no transfer.
    tell : callable
        Called with a kind after results of it were put down.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, name: str, workers: int, tell: Callable[[Kind], None], clock: Callable[[], float]) -> None:
        self._tell: Final = tell
        self._clock: Final = clock
        self._lock: Final = threading.Lock()
        self._numbers = 0
        self._open: Final[dict[int, Task]] = {}
        self._down: Final[dict[Kind, dict[int, Task]]] = {kind: {} for kind in Kind}
        self._transfers: Final = Jobs(f"lms-{name}", workers=workers, notify=lambda tag: self._ended(self._transfers))
        try:
            self._looks: Final = Jobs(f"lms-{name}-looks", workers=1, notify=lambda tag: self._ended(self._looks))
        except BaseException:
            self._transfers.close()
            raise

    def submit(self, kind: Kind, count: int, work: Callable[[int, int], Work], parts: int = 1) -> int:
        """Begin a task about `count` keys; `work(begin, end)` is what is done for some of them in a row.

        It may be shared out in so many `parts` over the threads. Where the tasks are closed it has failed already.
        """
        jobs = self._looks if kind is Kind.LOOKUP else self._transfers
        queue = Queue.STORE if kind is Kind.STORE else Queue.LOAD
        parts = max(1, min(parts, count))
        bounds = [count * i // parts for i in range(parts + 1)]
        with self._lock:
            self._numbers = number = self._numbers + 1
            self._open[number] = Task(number, kind, parts, [False] * count)
        for begin, end in pairwise(bounds):
            try:
                jobs.submit(queue, work(begin, end), end - begin, (number, begin))
            except BackendClosedError:
                self._absorb([(number, begin, (), 0)])
        return number

    def aside(self, work: Work) -> bool:
        """Do something in the thread of look-ups, after those handed in before; False where the tasks are closed."""
        try:
            self._looks.submit(Queue.LOAD, work, 0)
        except BackendClosedError:
            return False
        return True

    def take(self, kind: Kind, number: int) -> Task | None:
        """A task that is done, once; None where it is not, or was given."""
        with self._lock:
            return self._down[kind].pop(number, None)

    def take_all(self, kind: Kind) -> list[Task]:
        """Every task of a kind that is done, each once."""
        with self._lock:
            tasks = list(self._down[kind].values())
            self._down[kind].clear()
        return tasks

    def counts(self) -> tuple[int, int]:
        """Transfers that wait, and that run."""
        return self._transfers.counts()

    def close(self) -> None:
        """Drop what waits; return when nothing runs, however long that takes: memory of LMCache's is in use."""
        self._transfers.close()
        self._looks.close()

    # -- in the threads ----------------------------------------------------------------------------------------------

    def _ended(self, jobs: Jobs) -> None:
        self._absorb([(*result.tag, *_moved(result)) for result in jobs.poll() if result.tag is not None])

    def _absorb(self, parts: Sequence[tuple[int, int, Sequence[bool], int]]) -> None:
        kinds = set()
        with self._lock:
            now = self._clock()
            for number, begin, succeeded, nbytes in parts:
                task = self._open[number]
                task.succeeded[begin : begin + len(succeeded)] = succeeded
                task.nbytes += nbytes
                task.left -= 1
                if task.left:
                    continue
                del self._open[number]
                task.down = now
                down = self._down[task.kind]
                down[number] = task
                kinds.add(task.kind)
                for old in [n for n, other in down.items() if other.down < now - _KEPT]:
                    del down[old]
        for kind in kinds:
            self._tell(kind)


def _moved(result: Result) -> tuple[Sequence[bool], int]:
    return result.succeeded, result.nbytes
