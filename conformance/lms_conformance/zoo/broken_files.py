"""Mutants of the persistent reference: what is lost, torn or wrong after a restart, a crash or damage."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Optional

from lms_conformance.zoo.files import FileReference, decode, encode, file_of
from lms_conformance.zoo.mutant import mutant
from lms_tiers.errors import StorageLockedError
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, MemoryFormat, key_text


@mutant("loses-metadata-on-restart", "PER-01", base="files")
class LosesMetadataOnRestart(FileReference):
    """Shows chunks found on opening as plain bytes."""

    def _load(self) -> None:
        """And note what was found."""
        super()._load()
        self._found = set(self._index)

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """With its metadata."""
        super().put(client_meta, kv_chunk_bytes)
        self._found.discard(key_text(client_meta.key))

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Without, where it was found."""
        obj = super().get(key)
        if obj is not None and key_text(key) in self._found:
            return dataclasses.replace(obj, fmt=MemoryFormat.BINARY, dtype=None)
        return obj


@mutant("resurrects-on-restart", "PER-02", base="files")
class ResurrectsOnRestart(FileReference):
    """Forgets a removed key in memory, and leaves its file."""

    def _delete(self, file: Path) -> None:
        """Not the file."""


@mutant("shows-the-old-version-on-restart", "PER-03", base="files")
class OldVersion(FileReference):
    """Keeps the chunk before an overwrite, and prefers it on opening."""

    def _write(self, file: Path, blob: bytes) -> None:
        """And keep the old file."""
        if file.suffix == ".chunk" and file.exists():
            os.replace(file, file.with_suffix(".old"))
        super()._write(file, blob)

    def _load(self) -> None:
        """The old ones first."""
        for old in self.path.glob("*.old"):
            if old.with_suffix(".chunk").exists():
                os.replace(old, old.with_suffix(".chunk"))
        super()._load()


@mutant("keeps-the-first-state", "PER-04", base="files")
class KeepsFirstState(FileReference):
    """Saves a state once."""

    def save_state(self, state: bytes) -> None:
        """The first one."""
        if self.load_state() is None:
            super().save_state(state)


@mutant("needs-a-flush-before-close", "PER-05", base="files")
class NeedsFlush(FileReference):
    """Loses on close what was not flushed."""

    _unsafe: frozenset[str] = frozenset()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """For now."""
        super().put(client_meta, kv_chunk_bytes)
        self._unsafe |= {key_text(client_meta.key)}

    def flush(self, timeout: float | None = None) -> None:
        """For good."""
        super().flush(timeout)
        self._unsafe = frozenset()

    def close(self) -> None:
        """And lose the rest."""
        super().close()
        for key in self._unsafe:
            file_of(self.path, key).unlink(missing_ok=True)


@mutant("loses-a-chunk-per-open", "PER-06", base="files")
class LosesOnePerOpen(FileReference):
    """Loses one chunk each time it is opened for the third time or later."""

    def _load(self) -> None:
        """All but one, the third time."""
        opens = self.path / "opens"
        count = len(opens.read_bytes()) if opens.exists() else 0
        opens.write_bytes(b"." * (count + 1))
        super()._load()
        if count >= 3 and self._index:
            self._index.popitem(last=False)


@mutant("finds-256-chunks", "PER-07", base="files")
class Finds256(FileReference):
    """Reads the first 256 files on opening."""

    def _load(self) -> None:
        """The first ones."""
        super()._load()
        while len(self._index) > 256:
            self._index.popitem()


class Delayed(FileReference):
    """Writes chunks beside their place and moves them there on close."""

    def _write(self, file: Path, blob: bytes) -> None:
        """Beside."""
        super()._write(file.with_suffix(".part") if file.suffix == ".chunk" else file, blob)

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        part = file.with_suffix(".part")
        return super()._decode(part if part.exists() else file)

    def _delete(self, file: Path) -> None:
        file.with_suffix(".part").unlink(missing_ok=True)
        super()._delete(file)

    def close(self) -> None:
        """And move."""
        if not self._closed:
            for part in self.path.glob("*.part"):
                os.replace(part, part.with_suffix(".chunk"))
        super().close()


@mutant("does-not-flush", "CRA-01", base="files")
class DoesNotFlush(Delayed):
    """Does nothing on flush: chunks reach their place on close."""


@mutant("flushes-beside-the-place", "PER-08", base="files")
class FlushesBeside(Delayed):
    """Flushes to a place where it alone looks."""

    def _load(self) -> None:
        for part in self.path.glob("*.part"):
            os.replace(part, part.with_suffix(".chunk"))
        super()._load()


@mutant("remembers-where-it-was", "PER-10", base="files")
class RemembersPlace(FileReference):
    """Keeps its absolute path, and starts anew where that is another."""

    def _load(self) -> None:
        """Only at home."""
        home = self.path / "home"
        if home.exists() and home.read_text() != str(self.path):
            for file in self.path.glob("*.chunk"):
                file.unlink()
        home.write_text(str(self.path))
        super()._load()


@mutant("tears-on-a-crash", "CRA-02", base="files")
class Tears(FileReference):
    """Overwrites a file in place, in two writes, and does not verify."""

    def _write(self, file: Path, blob: bytes) -> None:
        """In two writes."""
        half = len(blob) // 2
        with file.open("r+b" if file.exists() else "wb") as f:
            f.write(blob[:half])
            f.flush()
            if len(blob) > 1 << 20:
                time.sleep(0.03)
            f.write(blob[half:])
            f.truncate()

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        return decode(file.read_bytes(), verify=False)


@mutant("leaves-its-lock-behind", "CRA-03", base="files")
class LeavesLock(FileReference):
    """Locks its place by a file that only close removes."""

    def __init__(self, path: str, capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._owned = self.path / "owner"
        if self._owned.exists():
            super().close()
            raise StorageLockedError(path, "its last owner")
        self._owned.touch()

    def close(self) -> None:
        """And unlock."""
        if not self._closed:
            self._owned.unlink(missing_ok=True)
        super().close()


@mutant("removes-on-close", "CRA-04", base="files")
class RemovesOnClose(FileReference):
    """Deletes files of removed keys on close, not on flush."""

    _doomed: tuple[Path, ...] = ()

    def _delete(self, file: Path) -> None:
        self._doomed += (file,)

    def _write(self, file: Path, blob: bytes) -> None:
        self._doomed = tuple(f for f in self._doomed if f != file)
        super()._write(file, blob)

    def close(self) -> None:
        """And delete."""
        if not self._closed:
            for file in self._doomed:
                file.unlink(missing_ok=True)
        super().close()


@mutant("does-not-verify", "CRA-05", base="files")
class DoesNotVerify(FileReference):
    """Answers what the file holds, checksum or not."""

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        return decode(file.read_bytes(), verify=False)


@mutant("pads-what-is-cut-short", "CRA-06", base="files")
class PadsCut(FileReference):
    """Pads a file that was cut short with zeros."""

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        blob = file.read_bytes()
        found = decode(blob, verify=False)
        if found is None or len(found[2]) == found[1].length:
            return decode(blob)
        key, meta, data = found
        return decode(encode(key, meta, bytes(data) + bytes(meta.length - len(data))))


@mutant("swallows-a-full-disk", "CRA-07", base="files")
class SwallowsFullDisk(FileReference):
    """Says nothing when a write fails."""

    def _write(self, file: Path, blob: bytes) -> None:
        try:
            super()._write(file, blob)
        except OSError:
            return


@mutant("fails-untyped-where-it-may-not-write", "CRA-08", base="files")
class FailsUntypedReadOnly(FileReference):
    """Probes the directory before it opens it, and lets the probe's error out."""

    def __init__(self, path: str, capacity: int | None = None) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "probe").touch()
        (Path(path) / "probe").unlink()
        super().__init__(path, capacity)


@mutant("breaks-untyped-after-fork", "FRK-02", base="files")
class BreaksAfterFork(FileReference):
    """Raises an operating system's error in a forked child."""

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise OSError(9, "Bad file descriptor")
        super()._check()


@mutant("cleans-up-in-the-child", "FRK-03", base="files")
class CleansUpInChild(FileReference):
    """Takes the end of a forked child for its own, and deletes the files."""

    def close(self) -> None:
        """And delete, in a child."""
        if self._pid != os.getpid():
            for file in self.path.glob("*.chunk"):
                file.unlink(missing_ok=True)
        super().close()
