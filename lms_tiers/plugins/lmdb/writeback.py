"""Starting write-back early, once the kernel has held up a commit: in steps, by a thread of its own.

Left alone, the kernel lets dirty pages pile up and then stops the writer for tens of milliseconds at a time. Nothing
here promises that bytes are on the medium, and nothing waits for it. A store never held up writes nothing early.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lms_tiers.plugins.lmdb.sidecar import DATA_FILE

_log = logging.getLogger(__name__)

#: Bytes written between two starts. Less writes pages that are overwritten soon after once more than it must.
STEP_BYTES: Final = 64 << 20
#: So many bytes after a commit that was held up, starts end.
SPELL_BYTES: Final = 1 << 30
#: A commit was held up if it took this long, and this many times as long for its bytes as others did.
HELD_UP_SECONDS: Final = 0.004
_HELD_UP_TIMES: Final = 3
_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE: start, wait for nothing


def _system() -> Callable[[int], None] | None:
    """Start write-back of a whole file by its descriptor; None where the system has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    call.restype = ctypes.c_int

    def start(fd: int) -> None:
        if call(fd, 0, 0, _WRITE):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return start


class Writeback:
    """Starts write-back of one store's data file: when a commit was held up, and for a spell after it.

    Parameters
    ----------
    directory : Path
    start : callable, optional
        Given the file's descriptor, starts write-back; may block while the disk's queue is full.
    """

    def __init__(self, directory: Path, start: Callable[[int], None] | None = None) -> None:
        self.started = 0
        self._start = start or _system()
        self._written = 0  # since the last start
        self._left = 0  # of the spell
        self._pace = 0.0  # seconds a byte, of commits that were not held up
        self._wake = threading.Semaphore(0)
        self._stopping = False
        self._thread: threading.Thread | None = None
        if self._start is None:
            return
        # A descriptor of its own: errors of the medium stay unseen for whoever syncs, and are told there.
        self._file = os.open(directory / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="lms-tiers-lmdb-writeback", daemon=True)
        self._thread.start()

    def wrote(self, count: int, seconds: float) -> None:
        """Note a commit: its bytes and how long it took. Called by the writer thread, between commits."""
        self._written += count
        if seconds > max(HELD_UP_SECONDS, _HELD_UP_TIMES * self._pace * count):
            self._left = SPELL_BYTES
        elif count:
            self._pace += (seconds / count - self._pace) / 32
        if self._left > 0 and self._written >= STEP_BYTES:
            self._left -= self._written
            self._written = 0
            self._wake.release()

    def stop(self) -> None:
        """End the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping = True
            self._wake.release()
            thread.join()
            os.close(self._file)

    def _run(self) -> None:
        start = self._start
        assert start is not None
        while True:
            self._wake.acquire()
            # What was asked for during the last step is done by one.
            while self._wake.acquire(blocking=False):
                pass
            if self._stopping:
                return
            try:
                start(self._file)
                self.started += 1
            except OSError as error:
                # The kernel writes back by itself too; a sync reports what failed.
                _log.debug("write-back could not be started early: %s", error)
