"""The reference that outlives a loss of power: what `put` and `remove` returned for is on the medium."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from lms_conformance.zoo.files import MAX_KEY, FileReference
from lms_tiers.interface import Capabilities


def sync(path: Path) -> None:
    """Bring a file, or the names in a directory, onto the medium."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class PowerFiles(FileReference):
    """Chunks in files, each synced before it is renamed, and its directory after."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        remove=True, persistent=True, max_key_bytes=MAX_KEY, power="put"
    )

    def _write(self, file: Path, blob: bytes) -> None:
        new = file.with_suffix(".new")
        try:
            new.write_bytes(blob)
            self._sync_file(new)
            os.replace(new, file)
            self._sync_names()
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _sync_file(self, file: Path) -> None:
        sync(file)

    def _sync_names(self) -> None:
        sync(self.path)

    def _delete(self, file: Path) -> None:
        super()._delete(file)
        self._sync_names()
