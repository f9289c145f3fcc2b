"""Threads that code blocks for callers who bring none of their own: one pool a process, sized to its cores."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final


class _Shared:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        # A forked child has none of the parent's threads, and perhaps a lock that one of them held.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._pool = None

    def get(self) -> Executor | None:
        cores = len(os.sched_getaffinity(0))
        if cores < 2:
            return None
        with self._lock:
            if self._pool is None:
                # The calling thread codes too, so one less than the cores.
                self._pool = ThreadPoolExecutor(cores - 1, "lms-shared-codec")
            return self._pool


_shared: Final = _Shared()


def shared_executor() -> Executor | None:
    """The process's executor for `Codec.encode` and `decode_into`; None on a single core. Never shut it down."""
    return _shared.get()
