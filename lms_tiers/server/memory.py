"""How the process's allocator treats chunk buffers: a freed one is kept for the next, whichever thread receives it.

A fresh buffer costs several times a warm one, because each of its pages is a fault. glibc would give every thread a
heap of its own, from which the others cannot reuse, and would return large buffers to the kernel at once.
"""

from __future__ import annotations

import ctypes
import logging
from typing import Final

_log = logging.getLogger(__name__)

# Of <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: The most glibc takes: larger buffers go back to the kernel when freed.
_LARGEST_KEPT: Final = 32 * 2**20
_GROWTH: Final = 16 * 2**20


def keep_chunk_buffers(spare_bytes: int) -> bool:
    """Let the allocator keep up to about `spare_bytes` of freed buffers; for a process that serves, before its threads.

    Returns
    -------
    bool
        False where the C library has no such settings; the server works as well, only slower.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = {
        _M_ARENA_MAX: 1,
        _M_MMAP_THRESHOLD: _LARGEST_KEPT,
        _M_TRIM_THRESHOLD: min(spare_bytes, 2**31 - 1),
        _M_TOP_PAD: _GROWTH,
    }
    return all(mallopt(name, value) for name, value in settings.items())
