"""Copies between host buffers that release the GIL, split over threads where that pays."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from lms_tiers.buffers import room_for
from lms_tiers.changes import Changes
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


def scattered(buffers: Sequence[Any], length: int) -> list[Bytes]:
    """Writable buffers that together take `length` bytes, as arrays of exactly so many; see `room_for`."""
    return [as_array(view) for view in room_for(buffers, length)]


def array_pairs(targets: Sequence[Bytes], sources: Sequence[Bytes]) -> Iterator[tuple[Bytes, Bytes]]:
    """Cut two lists of arrays into equally long pieces; they end where the shorter list does."""
    i = j = at_i = at_j = 0
    while i < len(targets) and j < len(sources):
        size = min(targets[i].size - at_i, sources[j].size - at_j)
        if size:
            yield targets[i][at_i : at_i + size], sources[j][at_j : at_j + size]
        at_i, at_j = at_i + size, at_j + size
        if at_i == targets[i].size:
            i, at_i = i + 1, 0
        if at_j == sources[j].size:
            j, at_j = j + 1, 0


def default_threads() -> int:
    """Threads a large copy is split over: one core saturates small machines, a quarter of the cores larger ones."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // 4))


class _Batch:
    """Tasks that several threads share; the first error keeps those that were not begun from beginning."""

    def __init__(self, tasks: Sequence[Callable[[], None]]) -> None:
        self._left: Final = iter(tasks)
        self._lock: Final = threading.Lock()
        self._at_work: Final[set[int]] = set()
        self._leaving: Final = Changes()
        self._stopped = False

    def work(self) -> None:
        """Run tasks until none is left."""
        thread = threading.get_ident()
        try:
            while True:
                with self._lock:
                    task = None if self._stopped else next(self._left, None)
                    if task is None:
                        return
                    self._at_work.add(thread)
                task()
        except BaseException:
            self._stopped = True
            raise
        finally:
            with self._lock:
                self._at_work.discard(thread)
                self._leaving.wake()

    def end(self) -> None:
        """Begin no more tasks, and wait for those of other threads that are under way."""
        while True:
            with self._lock:
                self._stopped = True
                if not self._at_work - {threading.get_ident()}:
                    return
                left = self._leaving.next()
            self._leaving.wait(left, None)


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
        import numpy as np

        self.threads: Final = threads or default_threads()
        self._copyto: Final = np.copyto
        self._pool: ThreadPoolExecutor | None = None
        self._lock: Final = threading.Lock()
        #: By thread: the tasks that it shares with others.
        self._batches: Final[dict[int, _Batch]] = {}
        self._closed = False

    def copy(self, target: Bytes, source: Bytes) -> None:
        """Copy `source` to `target`."""
        pieces = min(self.threads, target.size // _PER_THREAD)
        if pieces < 2:
            self._copyto(target, source)
            return
        step = -(-target.size // pieces) + 63 & ~63
        self.each(
            [
                partial(self._copyto, target[at : at + step], source[at : at + step])
                for at in range(0, target.size, step)
            ]
        )

    def each(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run independent tasks over the threads; answers when all have ended, with the first error if any failed."""
        workers = min(self.threads, len(tasks))
        pool = self._threads() if workers > 1 else None
        batch = _Batch(tasks)
        futures: list[Future[None]] = []
        if pool is not None:
            self._batches[threading.get_ident()] = batch
            # Closed meanwhile: the caller's thread does it all, a running call may still finish.
            with contextlib.suppress(RuntimeError):
                futures = [pool.submit(batch.work) for _ in range(workers - 1)]
        try:
            batch.work()
        finally:
            wait(futures)
        for future in futures:
            future.result()
        if pool is not None:
            del self._batches[threading.get_ident()]

    def settle(self) -> None:
        """After an interrupt: return when no thread is at what this thread has asked for."""
        batch = self._batches.get(threading.get_ident())
        if batch is not None:
            batch.end()
            self._batches.pop(threading.get_ident(), None)

    def move(self, targets: Sequence[Bytes], sources: Sequence[Bytes]) -> None:
        """Copy `sources` into `targets`, each taken for one run of bytes; it ends where the shorter one does."""
        if len(targets) == len(sources) == 1 and targets[0].size == sources[0].size:
            self.copy(targets[0], sources[0])
            return
        for target, source in array_pairs(targets, sources):
            self.copy(target, source)

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
