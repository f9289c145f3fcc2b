"""One transfer: its work, step by step, where it stands, and how it ended."""

from __future__ import annotations

import contextlib
import enum
import logging
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from lms_tiers.errors import LmsTiersError

_log = logging.getLogger(__name__)


class Queue(enum.Enum):
    """Where a job waits: somebody waits for a load (or a look-up), nobody for a store."""

    LOAD = "load"
    STORE = "store"


class State(enum.Enum):
    """Where a job stands; the last three are for ever."""

    QUEUED = "queued"
    RUNNING = "running"
    #: Every key succeeded.
    DONE = "done"
    #: Some key did not, or the work raised.
    FAILED = "failed"
    #: Stopped before every key had succeeded: dropped from its queue, or ended between two steps.
    CANCELLED = "cancelled"


#: What one step did: positions of the job's keys that succeeded by it, and bytes moved for them.
Step = tuple[Iterable[int], int]
#: Called in one of the threads; yields after each step. A job can be stopped between two steps only.
Work = Callable[[], Generator[Step, None, None]]


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended.

    Attributes
    ----------
    job : int
        What `submit` answered.
    tag : object
        What `submit` was given.
    state : State
        DONE, FAILED or CANCELLED.
    succeeded : tuple of bool
        For each key of the job.
    nbytes : int
        Bytes moved for those.
    seconds : float
        From the first step to the end; 0 for a job that never ran.
    error : BaseException, optional
        What the work raised, without tracebacks: their frames hold the engine's buffers.
    """

    job: int
    tag: Any
    state: State
    succeeded: tuple[bool, ...]
    nbytes: int = 0
    seconds: float = 0.0
    error: BaseException | None = None


@dataclass(eq=False, slots=True)
class Job:
    """A transfer that was handed in; `result` is set last, once, and by then its work has ended."""

    number: int
    tag: Any
    queue: Queue
    work: Work
    succeeded: list[bool]
    running: bool = False
    stopping: bool = False
    nbytes: int = 0
    result: Result | None = None

    def ended(self, state: State, seconds: float = 0.0, error: BaseException | None = None) -> Result:
        """The result, made of what has succeeded so far."""
        return Result(self.number, self.tag, state, tuple(self.succeeded), self.nbytes, seconds, error)

    def perform(self, name: str) -> Result:
        """Do the work, until its end or until `stopping`; raises nothing of the work's."""
        error: BaseException | None = None
        began = time.perf_counter()
        try:
            with contextlib.closing(self.work()) as steps:
                for positions, nbytes in steps:
                    for at in positions:
                        self.succeeded[at] = True
                    self.nbytes += nbytes
                    if self.stopping:
                        break
        except BaseException as raised:  # whatever it is, the engine waits for a result
            if not isinstance(raised, LmsTiersError):
                text = "".join(traceback.format_exception(raised))
                _log.error("%s: job %r stumbled: %s", name, self.tag, text)
            error = without_frames(raised)
        state = State.CANCELLED if error is None and self.stopping else State.FAILED
        if error is None and all(self.succeeded):
            state = State.DONE
        return self.ended(state, time.perf_counter() - began, error)


def without_frames(error: BaseException) -> BaseException:
    """The error; it and all it came from lose their tracebacks."""
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found:
        one = found.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            found += one.__cause__, one.__context__
    return error
