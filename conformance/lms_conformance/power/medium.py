"""What a medium keeps when the power goes: writes in sectors, names in steps, and syncs that make both certain.

What was synced is there; of what was written since, each sector has any of the versions it had; a name follows when its
directory is synced, or its file is, and before that it may or may not have; a rename is one step.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SECTOR: Final = 512

#: Shares of a torn write that are kept: a few sectors are missing, or half of them are, or most.
_FEW_LOST: Final = (0.97, 0.9)
_KEPT: Final = (*_FEW_LOST, 0.5, 0.05)


@dataclass(frozen=True, slots=True)
class Write:
    """Sectors of one file that changed, by offset, and the file's length since."""

    file: int
    sectors: dict[int, bytes]
    length: int


@dataclass(frozen=True, slots=True)
class Names:
    """From here on these names lead to these files, or to none: one step."""

    names: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """A file, or with None the names in a directory, or with None for both everything, are on the medium."""

    file: int | None = None
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class Marked:
    """A moment of the run itself."""

    number: int


Change = Write | Names
Operation = Change | Synced | Marked

#: A file: its sectors that hold anything but zeros, and its length.
File = tuple[dict[int, bytes], int]


@dataclass(frozen=True, slots=True)
class Torn:
    """Each sector of a write is kept with this probability."""

    draw: random.Random
    share: float


#: Of a pending change: kept, lost, or torn.
Fate = bool | Torn


@dataclass(slots=True)
class Medium:
    """What is on the medium for certain after some operations, and what came since.

    Attributes
    ----------
    files : dict of int to File
    names : dict of str to int
        Paths below the place.
    pending : list of Change
    """

    files: dict[int, File] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def advance(self, op: Operation) -> None:
        """One more operation has happened."""
        if isinstance(op, Marked):
            return
        if not isinstance(op, Synced):
            self.pending.append(op)
            return
        rest: list[Change] = []
        for one in self.pending:
            if not _made_certain(one, op):
                rest.append(one)
            elif isinstance(one, Write):
                self.files[one.file] = _written(self.files.get(one.file), one, True)
            else:
                _lead(self.names, one)
        self.pending = rest

    def image(self, where: Path, fate: Callable[[Change], Fate]) -> None:
        """Write what is left to the empty folder `where`, of each pending change what `fate` says."""
        files, names = dict(self.files), dict(self.names)
        for op in self.pending:
            kept = fate(op)
            if kept is False:
                continue
            if isinstance(op, Write):
                files[op.file] = _written(files.get(op.file), op, kept)
            else:
                _lead(names, op)
        for name, number in names.items():
            path = where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _store(path, files.get(number, ({}, 0)))

    def content(self, name: str) -> bytes:
        """What a file would hold with everything pending."""
        files, names = dict(self.files), dict(self.names)
        for op in self.pending:
            if isinstance(op, Write):
                files[op.file] = _written(files.get(op.file), op, True)
            else:
                _lead(names, op)
        sectors, length = files.get(names[name], ({}, 0))
        data = bytearray(length)
        for at, sector in sectors.items():
            data[at : at + len(sector)] = sector
        return bytes(data[:length])

    def all_names(self) -> set[str]:
        """Paths with everything pending."""
        names = dict(self.names)
        for op in self.pending:
            if isinstance(op, Names):
                _lead(names, op)
        return set(names)


def _made_certain(op: Change, sync: Synced) -> bool:
    if sync.file is None and sync.directory is None:
        return True
    if isinstance(op, Write):
        return op.file == sync.file
    if sync.directory is not None:
        return any(os.path.dirname(name) == sync.directory for name, _ in op.names)
    # A file that is synced is found under its name as well, as journalling file systems have it.
    return any(file == sync.file for _, file in op.names)


def _lead(names: dict[str, int], op: Names) -> None:
    for name, file in op.names:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _written(file: File | None, op: Write, kept: Fate) -> File:
    old, length = ({}, 0) if file is None else file
    sectors = dict(old)
    torn = kept if isinstance(kept, Torn) else None
    for at, sector in op.sectors.items():
        if torn is None or torn.draw.random() < torn.share:
            sectors[at] = sector
            length = max(length, at + len(sector))
    if torn is None or op.length > length or torn.draw.random() < torn.share:
        if op.length < length:
            sectors = {at: sector[: op.length - at] for at, sector in sectors.items() if at < op.length}
        length = op.length
    return sectors, length


def _store(path: Path, file: File) -> None:
    sectors, length = file
    with path.open("wb") as out:
        out.truncate(length)
        for at, sector in sectors.items():
            if any(sector):
                os.pwrite(out.fileno(), sector, at)
    path.chmod(0o600)


def fates(pending: list[Change], draws: int, draw: random.Random, exhaustive: int = 3) -> Iterator[dict[int, Fate]]:
    """What may become of changes that are pending, by their identity: all subsets of few, some of many, and torn ones.

    Parameters
    ----------
    pending : list of Change
    draws : int
        Drawn fates beside them.
    draw : random.Random
    exhaustive : int
        So many are taken in all their subsets.
    """
    if len(pending) <= exhaustive:
        for chosen in itertools.product((False, True), repeat=len(pending)):
            yield dict(zip(map(id, pending), chosen, strict=True))
    else:
        yield dict.fromkeys(map(id, pending), False)
        yield dict.fromkeys(map(id, pending), True)
    writes = [op for op in pending if isinstance(op, Write) and len(op.sectors) > 1]
    for i in range(draws if pending else 0):
        if i % 2 and writes:  # everything is there, but that some sectors of one write are missing
            hit = draw.choices(writes, [len(op.sectors) for op in writes])[0]
            yield {**dict.fromkeys(map(id, pending), True), id(hit): Torn(draw, draw.choice(_FEW_LOST))}
        else:
            yield {id(op): draw.choice((False, True, Torn(draw, draw.choice(_KEPT)))) for op in pending}
