"""What `recorder.c` noted, as operations on a medium."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lms_conformance.power.medium import SECTOR, Marked, Names, Operation, Synced, Write

_HEAD: Final = struct.Struct("<c3xIII QQQ")


class Record(NamedTuple):
    """One record: kind, inode, offset or length, one or two paths, bytes."""

    kind: str
    inode: int
    at: int
    length: int
    first: str
    second: str
    data: bytes


def records(log: bytes) -> Iterator[Record]:
    """The records of a log; one that was cut off by a kill is left out."""
    at = 0
    while at + _HEAD.size <= len(log):
        kind, first, second, _, inode, offset, length = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        held = length if kind == b"w" else 0
        if at + first + second + held > len(log):
            return
        one, two = log[at : at + first], log[at + first : at + first + second]
        at += first + second
        names = one.decode(errors="surrogateescape"), two.decode(errors="surrogateescape")
        yield Record(kind.decode(), inode, offset, length, *names, log[at : at + held])
        at += held


class Replay:
    """Follows the files of a log by inode and by name.

    Attributes
    ----------
    operations : list of Operation
    unseen : str
        Why what was noted cannot be all that happened; empty where it can.
    """

    def __init__(self, log: bytes) -> None:
        self.operations: list[Operation] = []
        self.unseen = ""
        self._files: dict[int, int] = {}  # inode now in use -> number of the file
        self._names: dict[str, int | None] = {}  # directories lead to None
        self._content: dict[int, tuple[dict[int, bytes], int]] = {}
        for record in records(log):
            self._follow(record)

    def _file(self, inode: int) -> int:
        if inode not in self._files:
            self._files[inode] = len(self._content)
            self._content[self._files[inode]] = {}, 0
        return self._files[inode]

    def _follow(self, record: Record) -> None:
        match record.kind:
            case "c":
                self._files.pop(record.inode, None)  # the number of a file that is gone is used again
                self._name((record.first, self._file(record.inode)))
            case "l":
                self._name((record.first, self._file(record.inode)))
            case "u":
                self._name((record.first, None))
            case "r":
                self._rename(record.first, record.second)
            case "x":
                one, two = self._names.get(record.first), self._names.get(record.second)
                self._name((record.first, two), (record.second, one))
            case "w":
                self._write(self._file(record.inode), record.at, record.data)
            case "z":
                self._write(self._file(record.inode), record.at, bytes(record.length))
            case "t":
                self._cut(self._file(record.inode), record.at)
            case "s":
                self.operations.append(Synced(file=self._file(record.inode)))
            case "d":
                self.operations.append(Synced(directory=record.first))
            case "S":
                self.operations.append(Synced())
            case "m":
                self.operations.append(Marked(record.inode))
            case "?":
                self.unseen = f"{record.first!r} came from outside of the place"

    def _name(self, *names: tuple[str, int | None]) -> None:
        told = tuple((name, file) for name, file in names if name)
        for name, file in told:
            self._names.pop(name, None) if file is None else self._names.__setitem__(name, file)
        if told:
            self.operations.append(Names(told))

    def _rename(self, old: str, new: str) -> None:
        moved = [(old, new)] if old in self._names else []
        moved += [(name, new + name[len(old) :]) for name in self._names if name.startswith(old + "/")]
        self._name(
            *((after, self._names.get(before)) for before, after in moved), *((before, None) for before, _ in moved)
        )

    def _write(self, file: int, at: int, data: bytes) -> None:
        old, length = self._content[file]
        sectors: dict[int, bytes] = {}
        end = at + len(data)
        for start in range(at // SECTOR * SECTOR, end, SECTOR):
            sector = bytearray(old.get(start, b"").ljust(SECTOR, b"\0"))
            least, most = max(start, at), min(start + SECTOR, end)
            sector[least - start : most - start] = data[least - at : most - at]
            sectors[start] = bytes(sector[: max(length, end) - start])
        length = max(length, end)
        old.update(sectors)
        self._content[file] = old, length
        if sectors:
            self.operations.append(Write(file, sectors, length))

    def _cut(self, file: int, length: int) -> None:
        old, before = self._content[file]
        if length < before:
            old = {at: sector[: length - at] for at, sector in old.items() if at < length}
        self._content[file] = old, length
        if length != before:
            self.operations.append(Write(file, {}, length))


def replayed(log: Path) -> Replay:
    """The operations of a log."""
    return Replay(log.read_bytes())
