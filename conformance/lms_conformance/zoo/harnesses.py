"""Harnesses of the references and of the mutants, by name, so that another process can open the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lms_conformance.harness import IMPATIENT, Harness
from lms_conformance.shared import SharedReference, forget_engine, shared_engine
from lms_conformance.upgrade.predecessor import here
from lms_conformance.zoo.files import EvictingFileReference, FileReference, decode, file_of
from lms_conformance.zoo.memory import BareReference, EvictingReference, MemoryReference, TensorReference
from lms_conformance.zoo.power_files import PowerFiles
from lms_conformance.zoo.shared_files import SharedFiles
from lms_tiers.interface import LMSBackendInterface

Opener = Callable[[str, int | None], LMSBackendInterface]

#: The correct subjects; each property applies to at least one of them.
REFERENCES: Final[Mapping[str, Opener]] = {
    "bare": BareReference,
    "memory": MemoryReference,
    "lru": EvictingReference,
    "tensor": TensorReference,
    "files": FileReference,
    "files-lru": EvictingFileReference,
    "power-files": PowerFiles,
    "shared": SharedReference,
    "shared-files": SharedFiles,
}


def with_timeout(backend: LMSBackendInterface, seconds: float) -> LMSBackendInterface:
    """The backend, where it is a shared reference or a mutant around one, with another time-out."""
    inner: Any = backend
    while not isinstance(inner, SharedReference):
        inner = inner.inner
    inner.timeout = seconds
    return backend


class ReferenceHarness(Harness):
    """One of the references."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.name = f"reference {reference}"
        self.takes_capacity = reference not in ("bare", "shared-files")
        self.one_process = self.has_server = reference == "shared"
        self.deadline = IMPATIENT if self.has_server else None
        self.recovery = 1.0
        self.predecessor = here("lms_conformance.zoo.files:FileReference") if reference == "files" else None

    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open it."""
        return REFERENCES[self.reference](str(path), capacity)

    def told(self, path: Path, capacity: int | None) -> dict[str, Any] | None:
        """The release before says itself how it is opened."""
        return {}

    def open_impatient(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open the shared one with a short time-out."""
        opened = self.open(path, capacity)
        return with_timeout(opened, IMPATIENT)

    def kill(self, path: Path) -> None:
        """The engine cannot be reached."""
        shared_engine(str(path)).down = True

    def stall(self, path: Path) -> None:
        """The engine does not answer."""
        shared_engine(str(path)).answering.clear()

    def heal(self, path: Path) -> None:
        """The engine answers, and carries out what came late."""
        engine = shared_engine(str(path))
        engine.down = False
        engine.answering.set()
        engine.deliver()

    def stop(self, path: Path) -> None:
        """Let the engine of this place go; other references have none."""
        forget_engine(str(path))

    def source(self) -> str:
        """An import of the reference."""
        opener = REFERENCES[self.reference]
        return (
            f"from {opener.__module__} import {opener.__name__}\n\n"
            f"def open_backend(path, capacity=None):\n    return {opener.__name__}(str(path), capacity)\n"
        )

    def raw_peek(self, path: Path, key: str) -> bytes | None:
        """The bytes in the file."""
        file = file_of(path, key)
        found = decode(file.read_bytes()) if file.exists() else None
        return None if found is None else bytes(found[2])


class MutantHarness(ReferenceHarness):
    """A mutant around (or in place of) its reference."""

    def __init__(self, name: str) -> None:
        from lms_conformance.zoo.mutant import mutants

        mutant = mutants()[name]
        super().__init__(mutant.base)
        self.mutant = name
        self.name = f"mutant {name}"
        before = getattr(mutant.build, "before", None)
        if before is not None:
            self.predecessor = here(before)
        elif not any(k.startswith("UPG") for k in mutant.kills):
            self.predecessor = None  # a process of another release takes seconds: only where it is asked for

    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open it."""
        from lms_conformance.zoo.mutant import Wrapper, mutants

        build: Any = mutants()[self.mutant].build
        if issubclass(build, Wrapper):
            wrapped: LMSBackendInterface = build(super().open(path, capacity))
            return wrapped
        opened: LMSBackendInterface = build(str(path), capacity)
        return opened

    def source(self) -> str:
        """A call of this class."""
        return (
            "from lms_conformance.zoo.harnesses import MutantHarness\n\n"
            f"def open_backend(path, capacity=None):\n    return MutantHarness({self.mutant!r}).open(path, capacity)\n"
        )


class ProvenHarness(Harness):
    """A mutant around the user's own backend."""

    def __init__(self, inner: Harness, name: str) -> None:
        self.inner = inner
        self.mutant = name
        self.name = f"{inner.name} with {name}"
        self.takes_capacity = inner.takes_capacity
        self.capacity_scale, self.capacity_besides = inner.capacity_scale, inner.capacity_besides
        self.local, self.known, self.has_server = inner.local, inner.known, inner.has_server

    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open the user's backend and break it."""
        return self._broken(self.inner.open(path, capacity))

    def reopen(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        """Open it again, as broken."""
        return self._broken(self.inner.reopen(path, capacity))

    def _broken(self, backend: LMSBackendInterface) -> LMSBackendInterface:
        from lms_conformance.zoo.mutant import mutants

        build: Any = mutants()[self.mutant].build
        broken: LMSBackendInterface = build(backend)
        return broken

    def start(self, path: Path, capacity: int | None) -> str:  # noqa: D102
        return self.inner.start(path, capacity)

    def stop(self, path: Path) -> None:  # noqa: D102
        self.inner.stop(path)

    def kill(self, path: Path) -> None:  # noqa: D102
        self.inner.kill(path)

    def stall(self, path: Path) -> None:  # noqa: D102
        self.inner.stall(path)

    def heal(self, path: Path) -> None:  # noqa: D102
        self.inner.heal(path)

    def clean(self, path: Path, capacity: int | None) -> None:  # noqa: D102
        self.inner.clean(path, capacity)

    def end(self) -> None:  # noqa: D102
        self.inner.end()

    def raw_peek(self, path: Path, key: str) -> bytes | None:  # noqa: D102
        return self.inner.raw_peek(path, key)

    def corrupt(self, path: Path, data: bytes) -> bool:  # noqa: D102
        return self.inner.corrupt(path, data)

    def truncate(self, path: Path) -> bool:  # noqa: D102
        return self.inner.truncate(path)
