"""What threads that code blocks share: memory that each reuses between blocks, and the turn that they take.

Fresh memory costs more than the coding does. Nothing here knows blocks or codecs.
"""

from __future__ import annotations

import os
import threading
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]


class _Arrays(threading.local):
    def __init__(self) -> None:
        self.by_use: dict[str, Bytes] = {}


_arrays: Final = _Arrays()


def scratch(use: str, nbytes: int) -> Bytes:
    """This thread's array for `use`, `nbytes` long: undefined contents, valid until the next call for the same use."""
    array = _arrays.by_use.get(use)
    if array is None or len(array) < nbytes:
        array = _arrays.by_use[use] = np.empty(nbytes, np.uint8)
    return array[:nbytes]


class Turn:
    """The right to run a row of short numpy operations; others wait for the row, not for each operation.

    numpy gives the GIL up for the few microseconds that an operation on a block takes. Two threads that both do that
    hand it back and forth and sleep far longer than they work: together they were slower than one. zstd's calls are
    long and run outside the turn, beside another thread's row.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A forked child has none of the threads that might have held it.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


TURN: Final = Turn()
