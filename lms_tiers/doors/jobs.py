"""Transfers that an engine hands in and asks for later: loads before stores, each result once, no buffer touched after.

A door gives a transfer as a generator that does one step after the other; threads of this module run it. What the
engine's thread calls (`submit`, `poll`, `take`, `cancel`, `state`) takes a lock for microseconds and waits for no
transfer; `drain` and `close` do. Nothing here knows engines, keys or stores.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from os import getpid
from queue import SimpleQueue
from typing import Any, Final

from lms_tiers.changes import Changes
from lms_tiers.doors.job import Job, Queue, Result, State, Work
from lms_tiers.errors import BackendClosedError, DeadlineExceededError, ForkedProcessError

_log = logging.getLogger(__name__)

__all__ = ["Jobs", "Queue", "Result", "State", "Work"]


class Jobs:
    """Two queues, and a bounded number of threads.

    - A job's result is given once, by `poll` or by `take`, to one caller.
    - When it is down, the generator is closed: nothing of the job touches a buffer any more, and nothing here refers
      to one.
    - After `close` has returned nothing runs, and every job has its result.

    Parameters
    ----------
    name : str
        Of the door; in thread names and errors.
    workers : int
        Threads. Where there are several, one takes loads only: stores that are stuck keep no load waiting.
    stores : int, optional
        Most stores that run at one time; all threads but that one where it is not given.
    notify : callable, optional
        Called with a job's tag after its result is down, by the thread that put it down, without a lock held.

    Examples
    --------
    >>> slot = bytearray(2)
    >>> def load():
    ...     for at in range(2):
    ...         slot[at] = 7
    ...         yield (at,), 1
    >>> jobs = Jobs("doctest", workers=1)
    >>> number = jobs.submit(Queue.LOAD, load, keys=2, tag="request-1")
    >>> jobs.drain()
    >>> result = jobs.take(number)
    >>> result.tag, result.state.value, result.succeeded, result.nbytes, bytes(slot)
    ('request-1', 'done', (True, True), 2, b'\\x07\\x07')
    >>> jobs.take(number) is None, jobs.poll()
    (True, [])
    >>> jobs.close()
    """

    def __init__(
        self, name: str, *, workers: int = 4, stores: int | None = None, notify: Callable[[Any], None] | None = None
    ) -> None:
        self._name: Final = name
        self._notify: Final = notify
        self._most_stores: Final = max(1, min(workers - 1, workers if stores is None else stores))
        self._pid: Final = getpid()
        self._lock: Final = threading.Lock()
        self._waiting: Final[dict[Queue, deque[Job]]] = {Queue.LOAD: deque(), Queue.STORE: deque()}
        self._unfinished: Final[dict[int, Job]] = {}
        self._finished: Final[dict[int, Result]] = {}
        self._ends: Final = Changes()
        #: One for each look that a thread has to take; a thread that has run a job looks again by itself.
        self._looks: Final[SimpleQueue[None]] = SimpleQueue()
        self._numbers = self._stores = 0  # given out; running now
        self._closed = False
        self._threads: Final[list[threading.Thread]] = []
        try:
            for i in range(max(1, workers)):
                thread = threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    def submit(self, queue: Queue, work: Work, keys: int, tag: Any = None) -> int:
        """Queue a job about so many keys, named by their positions from 0 on, and answer its number.

        What `work` raises fails the keys that had not succeeded. An interrupted call has queued the job or has not;
        where it has, the result comes as any other's, with its tag.

        Raises
        ------
        BackendClosedError, ForkedProcessError
        """
        self._check_process()
        with self._lock:
            if self._closed:
                raise BackendClosedError(self._name)
            self._numbers = number = self._numbers + 1
            job = Job(number, tag, queue, work, [False] * keys)
            self._looks.put(None)  # before it is there: who looks needs the lock, and then it is
            self._queue(job)
        return number

    def poll(self) -> list[Result]:
        """Every result that is down and not given yet, in the order in which the jobs ended.

        What an interrupted call had taken, of this or of `take`, is given to nobody.
        """
        self._check_process()
        with self._lock:
            results = list(self._finished.values())
            self._finished.clear()
        return results

    def take(self, job: int) -> Result | None:
        """The result of one job; None where it is not down yet, or was given."""
        self._check_process()
        with self._lock:
            result = self._finished.get(job)
            self._finished.pop(job, None)
        return result

    def state(self, job: int) -> State | None:
        """Where a job stands; None for one whose result was given."""
        self._check_process()
        with self._lock:
            unfinished, result = self._unfinished.get(job), self._finished.get(job)
        if unfinished is not None:
            return State.RUNNING if unfinished.running else State.QUEUED
        return None if result is None else result.state

    def counts(self) -> tuple[int, int]:
        """How many jobs wait for a thread, and how many run."""
        self._check_process()
        with self._lock:
            waiting = sum(map(len, self._waiting.values()))
            return waiting, len(self._unfinished) - waiting

    def cancel(self, job: int) -> bool:
        """Drop a job that waits, or let one that runs end after its step; False where it has ended.

        One that is dropped has its result at once; the buffers of one that runs are in use until it has its result.
        """
        self._check_process()
        with self._lock:
            found = self._unfinished.get(job)
            if found is None:
                return False
            found.stopping = True
            waits = not found.running
            if waits:
                self._end(found, found.ended(State.CANCELLED))
        if waits:
            self._tell(found.tag)
        return True

    def drain(self, timeout: float | None = None) -> None:
        """Return when every job submitted before has its result; results stay to be given.

        Raises
        ------
        DeadlineExceededError
            Some have none after `timeout` seconds; they go on.
        """
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            jobs = list(self._unfinished.values())
        while jobs:
            left = None if deadline is None else deadline - time.monotonic()
            if timeout is not None and left is not None and left <= 0:
                raise DeadlineExceededError(f"draining {self._name} of {len(jobs)} jobs", timeout)
            with self._lock:
                change = self._ends.next()
                jobs = [job for job in jobs if job.result is None]
            if jobs:
                self._ends.wait(change, left)

    def close(self, timeout: float | None = None) -> None:
        """Drop what waits, let what runs end after its step, end the threads. Results stay to be given.

        Raises
        ------
        DeadlineExceededError
            A step is not over after `timeout` seconds: its buffers are in use and must not be freed. Call again to
            wait on.
        """
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._closed = True
            dropped = [job for job in self._unfinished.values() if not job.running]
            for job in list(self._unfinished.values()):
                job.stopping = True
                if not job.running:
                    self._end(job, job.ended(State.CANCELLED))
        for job in dropped:
            self._tell(job.tag)
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for _ in self._threads:
            self._looks.put(None)
        for thread in others:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        alive = sum(thread.is_alive() for thread in others)
        if alive and timeout is not None:
            raise DeadlineExceededError(f"closing {self._name}, where {alive} threads still use buffers,", timeout)

    # -- in the threads ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            self._looks.get()
            while (job := self._next()) is not None:
                self._perform(job)

    def _next(self) -> Job | None:
        with self._lock:
            loads, stores = self._waiting[Queue.LOAD], self._waiting[Queue.STORE]
            if loads:
                job = loads.popleft()
            elif stores and self._stores < self._most_stores:
                job = stores.popleft()
                self._stores += 1
            else:
                return None
            job.running = True
            return job

    def _queue(self, job: Job) -> None:
        """Let a job wait. The lock is held; an interrupt in the middle has queued it, or changes nothing."""
        try:
            self._unfinished[job.number] = job
            self._waiting[job.queue].append(job)
        except BaseException:
            if job not in self._waiting[job.queue]:
                self._unfinished.pop(job.number, None)
            raise

    def _perform(self, job: Job) -> None:
        result = job.perform(self._name)
        with self._lock:
            self._stores -= job.queue is Queue.STORE
            self._end(job, result)
        self._tell(job.tag)

    def _end(self, job: Job, result: Result) -> None:
        """Put a job's result down. The lock is held; an interrupt in the middle changes nothing, or all of it."""
        try:
            job.result = result
            self._settle(job)
        except BaseException:
            self._settle(job)
            raise

    def _settle(self, job: Job) -> None:
        if job.result is not None:
            if not job.running and job in self._waiting[job.queue]:
                self._waiting[job.queue].remove(job)
            self._finished[job.number] = job.result
            self._unfinished.pop(job.number, None)
            self._ends.wake()

    def _tell(self, tag: Any) -> None:
        if self._notify is not None:
            try:
                self._notify(tag)
            except Exception:
                _log.exception("%s: who is told of ended jobs failed", self._name)

    def _check_process(self) -> None:
        if getpid() != self._pid:
            raise ForkedProcessError(self._name)
