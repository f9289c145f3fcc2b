"""Mutants that misread, hide from or harm another release; the one before is the reference, or is named."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from lms_conformance.zoo.files import FileReference, decode
from lms_conformance.zoo.mutant import mutant
from lms_tiers.errors import FormatError
from lms_tiers.messages import ChunkMeta


@mutant("forgets-what-the-release-before-wrote", "UPG-01", base="files")
class ForgetsTheOld(FileReference):
    """Chunks without this release's mark at their end are taken for damaged and dropped."""

    def _write(self, file: Path, blob: bytes) -> None:
        super()._write(file, blob)
        if file.suffix == ".chunk":
            file.with_suffix(".mark").touch()

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        return super()._decode(file) if file.with_suffix(".mark").exists() else None


@mutant("writes-another-format-unsaid", "UPG-02", base="files")
class WritesUnsaid(FileReference):
    """Chunks are written in a new form that the release before takes for damage, and deletes."""

    def _write(self, file: Path, blob: bytes) -> None:
        super()._write(file, blob[:2] + b"n2" + blob[4:] if file.suffix == ".chunk" else blob)

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        blob = file.read_bytes()
        return decode(blob[:2] + b"o1" + blob[4:] if blob[2:4] == b"n2" else blob)


class RefusesAndWrites(FileReference):
    """A release that refuses what a newer one wrote, and has noted that in the place by then."""

    def __init__(self, path: str, capacity: int | None = None) -> None:
        if Path(path, "format-2").exists():
            Path(path, "refused").write_text("by the release before")
            raise FormatError(path, "format 2", "format 1")
        super().__init__(path, capacity)


@mutant("touches-what-it-refuses", "UPG-03", base="files")
class TouchesWhatItRefuses(FileReference):
    """The release before notes in a place of this one's format that it has refused it."""

    before: ClassVar[str] = f"{__name__}:RefusesAndWrites"

    def __init__(self, path: str, capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self.path.joinpath("format-2").write_text("2")


@mutant("hides-its-chunks-from-the-release-before", "UPG-04", base="files")
class HidesItsChunks(FileReference):
    """An overwrite is a file beside the old chunk, which the release before goes on to answer."""

    def _write(self, file: Path, blob: bytes) -> None:
        super()._write(file.with_suffix(".chunk2") if file.exists() and file.suffix == ".chunk" else file, blob)

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        newer = file.with_suffix(".chunk2")
        return super()._decode(newer if newer.exists() else file)

    def _delete(self, file: Path) -> None:
        super()._delete(file)
        file.with_suffix(".chunk2").unlink(missing_ok=True)
