"""A store's directory while it is open: whether it still leads to the files, and a tier's state kept beside them."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb.pages import Counters
from lms_tiers.plugins.lmdb.sidecar import DATA_FILE, TIER_FILE, replace_file, unavailable

_log = logging.getLogger(__name__)

#: Nanoseconds between two looks whether the directory still leads to the files that are open.
LOOK: int = 10_000_000


class Place:
    """The directory of an open store, whose `data` is open as `fd`."""

    def __init__(self, path: Path, fd: int, counters: Counters) -> None:
        self._path: Final = path
        found = os.fstat(fd)
        self._identity: Final = found.st_ino, found.st_dev
        self._counters: Final = counters
        self._looked = 0

    def look_now_and_then(self) -> None:
        """Look, unless somebody has just done so."""
        now = time.monotonic_ns()
        if now - self._looked > LOOK:
            self.look()
            self._looked = now

    def look(self) -> None:
        """Raise where the files have lost their names: what is written would be gone with the last descriptor.

        Raises
        ------
        StorageUnavailableError
        """
        try:
            found = (self._path / DATA_FILE).stat()
            same = (found.st_ino, found.st_dev) == self._identity
        except OSError:
            same = False
        if not same:
            self._counters.failures += 1
            raise StorageUnavailableError(str(self._path), "the files were deleted or replaced under the store.")

    def keep_state(self, state: bytes, limit: int) -> None:
        """Keep a tier's state, compressed and checked; nothing, with a warning, where that takes over `limit` bytes.

        Raises
        ------
        StorageUnavailableError
        """
        import zstandard

        packed = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(state) if state else b""
        if len(packed) > limit:
            _log.warning(
                "lmdb store %s: a tier's state of %d bytes is over the limit of %d and is not kept",
                self._path, len(packed), limit,
            )  # fmt: skip
            packed = b""
        try:
            replace_file(self._path / TIER_FILE, packed)
        except OSError as error:
            self._counters.failures += 1
            raise unavailable(self._path, error, "cannot keep a tier's state") from error

    def kept_state(self) -> bytes | None:
        """What `keep_state` kept last; None without it, or where it is damaged."""
        import zstandard

        try:
            packed = (self._path / TIER_FILE).read_bytes()
            return zstandard.ZstdDecompressor().decompress(packed) if packed else None
        except OSError:
            return None
        except zstandard.ZstdError:
            self._counters.corrupt += 1
            return None
