"""Mutants that a loss of power finds out: what is not synced, or not checked, although it is promised."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import xxhash

from lms_conformance.zoo.files import MAX_KEY, FileReference, decode
from lms_conformance.zoo.mutant import mutant
from lms_conformance.zoo.power_files import PowerFiles
from lms_tiers.interface import Capabilities
from lms_tiers.messages import ChunkMeta

_AT_FLUSH = Capabilities(remove=True, persistent=True, max_key_bytes=MAX_KEY, power="flush")


def _ends(blob: bytes) -> bytes:
    """A checksum of the head and the tail."""
    return xxhash.xxh3_64_digest(blob[:512] + blob[-512:])


@mutant("checks-both-ends-of-a-chunk", "PWR-01", "CRA-05", base="files")
class ChecksBothEnds(FileReference):
    """The checksum of a chunk covers its head and its tail, so that what was cut short is a miss."""

    def _write(self, file: Path, blob: bytes) -> None:
        super()._write(file, _ends(blob) + blob)

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        blob = file.read_bytes()
        return decode(blob[8:], verify=False) if _ends(blob[8:]) == blob[:8] else None

    def save_state(self, state: bytes) -> None:
        FileReference._write(self, self.path / "state", bytes(state))

    def _sync(self) -> None:
        FileReference._write(self, self.path / "order", "\0".join(self._index).encode())


@mutant("flushes-names-alone", "PWR-02", base="power-files")
class FlushesNames(PowerFiles):
    """flush brings the names of files onto the medium, not what is in them."""

    capabilities: ClassVar[Capabilities] = _AT_FLUSH

    def _sync_file(self, file: Path) -> None:
        pass


@mutant("syncs-the-file-and-not-its-name", "PWR-03", base="power-files")
class SyncsNoName(PowerFiles):
    """put syncs the file under its first name, and renames it without a sync of the directory."""

    def _sync_names(self) -> None:
        pass

    def _delete(self, file: Path) -> None:
        super()._delete(file)
        PowerFiles._sync_names(self)


@mutant("forgets-removals-at-a-flush", "PWR-04", base="power-files")
class ForgetsRemovals(PowerFiles):
    """A removal is on the medium with the next put, not with the next flush."""

    capabilities: ClassVar[Capabilities] = _AT_FLUSH

    def _delete(self, file: Path) -> None:
        FileReference._delete(self, file)

    def _sync(self) -> None:
        """Everything but the directory is synced already."""


@mutant("stumbles-over-what-a-loss-left", "PWR-05", base="power-files")
class Stumbles(PowerFiles):
    """What was half written when the power went stays, and is in the way of the next put of its key."""

    def _load(self) -> None:
        strays = {stray: stray.read_bytes() for stray in self.path.glob("*.new")}
        super()._load()
        for stray, data in strays.items():
            stray.write_bytes(data)

    def _write(self, file: Path, blob: bytes) -> None:
        new = file.with_suffix(".new")
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        super()._write(file, blob)
