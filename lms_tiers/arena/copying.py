"""Copies between host buffers that release the GIL, split over threads where that pays."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final

from lms_tiers.errors import InvalidChunkError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

#: Copies below this many bytes a thread stay in one piece: waking a thread takes as long as copying half a MiB.
_PER_THREAD: Final = 2 << 20


def flat_bytes(key: str, data: Any) -> memoryview:
    """The bytes of a put in C order, without a copy where they lie so; they stay the caller's.

    Raises
    ------
    InvalidChunkError
        `data` offers no buffer.
    """
    try:
        view = memoryview(data)
    except TypeError:
        raise InvalidChunkError(key, f"{type(data).__name__} offers no buffer.") from None
    if not view.nbytes:
        return memoryview(b"")
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes("C"))


def as_array(buffer: Any) -> Bytes:
    """A buffer of bytes as an array over the same memory."""
    import numpy as np

    return np.frombuffer(buffer, dtype=np.uint8)


def default_threads() -> int:
    """Threads a large copy is split over: one core saturates small machines, a quarter of the cores larger ones."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // 4))


class Copier:
    """Copies bytes between arrays of equal length.

    `numpy.copyto` is the copy: it releases the GIL, runs at the speed of memcpy and checks its bounds, which
    `memoryview` slices (GIL held) and `ctypes.memmove` (unchecked) do not.

    Parameters
    ----------
    threads : int
        Threads one copy may use, the caller's included; 0 chooses by the machine.
    """

    def __init__(self, threads: int = 0) -> None:
        self.threads: Final = threads or default_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._lock: Final = threading.Lock()
        self._closed = False

    def copy(self, target: Bytes, source: Bytes) -> None:
        """Copy `source` to `target`."""
        import numpy as np

        pieces = min(self.threads, target.size // _PER_THREAD)
        pool = self._threads() if pieces > 1 else None
        if pool is None:
            np.copyto(target, source)
            return
        step = -(-target.size // pieces) + 63 & ~63
        edges = range(step, target.size, step)
        try:
            futures = [pool.submit(np.copyto, target[at : at + step], source[at : at + step]) for at in edges]
        except RuntimeError:  # closed meanwhile; a running call may still finish
            np.copyto(target, source)
            return
        np.copyto(target[:step], source[:step])
        wait(futures)
        for future in futures:
            future.result()

    def scatter(self, targets: Sequence[Bytes], source: Bytes) -> None:
        """Copy `source` into `targets`, one after the other."""
        at = 0
        for target in targets:
            self.copy(target, source[at : at + target.size])
            at += target.size

    def gather(self, target: Bytes, sources: Sequence[Bytes]) -> None:
        """Copy `sources` into `target`, one after the other."""
        at = 0
        for source in sources:
            self.copy(target[at : at + source.size], source)
            at += source.size

    def close(self) -> None:
        """End the threads; copies after this use the caller's alone."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def _threads(self) -> ThreadPoolExecutor | None:
        with self._lock:
            if self._pool is None and not self._closed:
                self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="lms-copy")
            return self._pool
