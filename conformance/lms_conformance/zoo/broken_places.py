"""Mutants that tell where a chunk lies in its file, and have something of it wrong."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from lms_conformance.zoo.files import FileReference, decode, file_of
from lms_conformance.zoo.mutant import mutant
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.interface import ChunkInFile
from lms_tiers.messages import CacheEngineKey, key_text


class InFileReference(FileReference):
    """The reference, which also tells where a chunk's bytes lie."""

    @contextmanager
    def in_file(self, key: CacheEngineKey) -> Iterator[ChunkInFile | None]:
        """The end of the chunk's own file, which an overwrite replaces and leaves to who has it open."""
        self._check()
        text = key_text(key)
        with self._mutex:
            self._check()
            try:
                fd = os.open(file_of(self.path, text), os.O_RDONLY | os.O_CLOEXEC) if text in self._index else -1
            except OSError as error:
                raise StorageUnavailableError(str(self.path), str(error)) from error
        if fd < 0:
            yield None
            return
        try:
            size = os.fstat(fd).st_size
            found = decode(os.pread(fd, size, 0))
            yield (
                None
                if found is None
                else ChunkInFile(found[1], fd, size - found[1].length, xxhash.xxh3_64_intdigest(found[2]))
            )
        finally:
            os.close(fd)


@mutant("names-a-place-beside-the-chunk", "OPT-15", base="files")
class NamesAPlaceBeside(InFileReference):
    """Counts from the end of the metadata, but one byte too far in chunks of several pages."""

    @contextmanager
    def in_file(self, key: CacheEngineKey) -> Iterator[ChunkInFile | None]:
        """One byte off."""
        with super().in_file(key) as place:
            far = place is not None and place.meta.length > 4096
            yield dataclasses.replace(place, offset=place.offset - 1) if place is not None and far else place


@mutant("tells-the-checksum-of-the-whole-file", "OPT-15", base="files")
class TellsAnotherChecksum(InFileReference):
    """Tells what it keeps itself, which covers key and metadata as well."""

    @contextmanager
    def in_file(self, key: CacheEngineKey) -> Iterator[ChunkInFile | None]:
        """That of all that follows the head."""
        with super().in_file(key) as place:
            if place is not None:
                place = dataclasses.replace(place, checksum=int.from_bytes(os.pread(place.fd, 8, 8), "little"))
            yield place


@mutant("overwrites-what-is-being-sent", "OPT-15", base="files")
class OverwritesWhatIsSent(InFileReference):
    """Writes a chunk over an older one of the same length, where somebody may be reading it."""

    def _write(self, file: Path, blob: bytes) -> None:
        """In place where it fits."""
        if file.suffix == ".chunk" and file.exists() and file.stat().st_size == len(blob):
            with file.open("r+b") as held:
                held.write(blob)
        else:
            super()._write(file, blob)
