"""Memory that each thread reuses between blocks: fresh memory costs more than the coding does."""

from __future__ import annotations

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
