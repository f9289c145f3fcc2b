"""What a process holds: descriptors, threads, anonymous memory, shared memory; and how busy its machine is. Linux."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import time
from pathlib import Path
from typing import Final


def descriptors() -> int:
    """Open file descriptors."""
    return len(os.listdir("/proc/self/fd"))


def threads() -> set[str]:
    """Names of Python's running threads, those of the kit itself left out."""
    return {f"{t.name}#{t.ident}" for t in threading.enumerate() if not t.name.startswith("conformance-")}


def native_threads() -> int:
    """Threads as the kernel counts them."""
    return len(os.listdir("/proc/self/task"))


def anonymous_bytes() -> int:
    """Resident memory that no file backs."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def trimmed_bytes() -> int:
    """The same when the allocator has given back what it keeps for later (glibc): what is in use shows at once."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return anonymous_bytes()


def settle() -> None:
    """Let the garbage collector look once through all there is; it passes that over from now on, until it is unfrozen.

    Half a million objects of torch and hypothesis, which stay, are a tenth of a second for each look.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


#: What the kit's own directories begin with, wherever they are.
PREFIX: Final = "lms-conformance-"


def shared_memory() -> set[str]:
    """Names in /dev/shm, those of the kit itself left out."""
    try:
        return {name for name in os.listdir("/dev/shm") if not name.startswith(PREFIX)}
    except OSError:
        return set()


def goes_on(pid: int) -> bool:
    """Whether a thread of a process has neither been stopped nor ended."""
    try:
        tasks = [
            path.read_text(encoding="ascii", errors="replace") for path in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
    except OSError:  # one has ended just now
        return Path(f"/proc/{pid}").exists()
    return any(text.rpartition(")")[2].split()[0] not in "TtZX" for text in tasks)


def busy() -> float:
    """How many threads want each processor that this process may use, at least 1: how much longer work takes here."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def ends(thread: threading.Thread, seconds: float) -> bool:
    """Wait for a thread; False where it has not ended after `seconds`, or as much longer as the machine is busy."""
    began = time.monotonic()
    while thread.is_alive():
        left = began + seconds * busy() - time.monotonic()
        if left <= 0:
            return False
        thread.join(left)
    return True
