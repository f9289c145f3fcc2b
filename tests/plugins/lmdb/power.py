"""Records what a store does to its files, and makes what a power loss may leave of them.

Every system call of the store that changes or syncs a file is done under one lock and followed by a look at the whole
directory: what differs is what was written. LMDB's own calls are not seen from here; a transaction is what LMDB says it
is: its pages, a sync, its meta page, a sync (the syncs only where the file was opened with them).

The medium: what was synced is there; of what was written since, each sector has any of the versions it had; names
follow when their directory is synced, and before that any of them may.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lmdb
import pytest

from lms_tiers.plugins.lmdb import datafile

SECTOR: Final = 512
_META_BYTES: Final = 2 * 4096


@dataclass(frozen=True, slots=True)
class Write:
    """Sectors of one file that changed, and its length since."""

    file: int
    sectors: dict[int, bytes]
    length: int


@dataclass(frozen=True, slots=True)
class Name:
    """A name leads to a file from here on, or to none."""

    name: str
    file: int | None


@dataclass(frozen=True, slots=True)
class Synced:
    """A file, or with None the names of the directory, are on the medium."""

    file: int | None


@dataclass(slots=True)
class Recorder:
    """Writes, names and syncs of one directory, in their order."""

    directory: Path
    ops: list[Write | Name | Synced] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)
    _names: dict[str, int] = field(default_factory=dict)
    _content: dict[int, bytes] = field(default_factory=dict)
    _files: dict[int, int] = field(default_factory=dict)  # inode now in use -> number of the file

    def look(self, of: str | None = None, least: int = 0, most: int | None = None) -> None:
        """Note what differs from the last look; of one file between two offsets only, where they are given."""
        names = {path.name: path for path in self.directory.iterdir()} if self.directory.exists() else {}
        for name in self._names.keys() - names.keys():
            if of is None:
                self._names.pop(name)
                self.ops.append(Name(name, None))
        for name, path in sorted(names.items()):
            if of is not None and name != of:
                continue
            with contextlib.suppress(FileNotFoundError):
                self._look_at(name, path, least, most)

    def _look_at(self, name: str, path: Path, least: int, most: int | None) -> None:
        inode = path.stat().st_ino
        known = self._files.get(inode)
        if known is None or (self._names.get(name) != known and known in self._names.values() and not path.exists()):
            known = self._files[inode] = len(self._content)
            self._content[known] = b""
        if self._names.get(name) != known:
            self._names[name] = known
            self.ops.append(Name(name, known))
        before, after = self._content[known], path.read_bytes()
        if most is not None:
            after = before[:least].ljust(least, b"\0") + after[least:most] + before[most:]
        if after == before:
            return
        sectors = {
            at: after[at : at + SECTOR]
            for at in range(0, len(after), SECTOR)
            if after[at : at + SECTOR] != before[at : at + SECTOR]
        }
        self._content[known] = after
        self.ops.append(Write(known, sectors, len(after)))

    def synced(self, path: Path) -> None:
        """A sync of a file or of the directory has returned."""
        if path == self.directory:
            self.ops.append(Synced(None))
        elif (known := self._names.get(path.name)) is not None:
            self.ops.append(Synced(known))

    def committed(self, path: Path, sync: bool) -> None:
        """A transaction of LMDB has ended."""
        self.look(path.name, _META_BYTES, 1 << 40)
        if sync:
            self.synced(path)
        self.look(path.name)
        if sync:
            self.synced(path)


class _Env:
    """An LMDB environment whose transactions are recorded."""

    def __init__(self, env: Any, recorder: Recorder, path: Path, sync: bool) -> None:
        self._env, self._recorder, self._path, self._sync = env, recorder, path, sync

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    @contextlib.contextmanager
    def begin(self, **options: Any) -> Iterator[Any]:
        if not options.get("write"):
            with self._env.begin(**options) as txn:
                yield txn
            return
        with self._recorder.lock:
            with self._env.begin(**options) as txn:
                yield txn
            self._recorder.committed(self._path, self._sync)

    def open_db(self, *args: Any, **options: Any) -> Any:
        with self._recorder.lock:
            found = self._env.open_db(*args, **options)
            if not options.get("txn"):
                self._recorder.committed(self._path, self._sync)
            return found

    def sync(self, force: bool = False) -> None:
        with self._recorder.lock:
            self._recorder.look()
            self._env.sync(force)
            if force or self._sync:
                self._recorder.synced(self._path)


def record(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record what this process does from here on."""

    def recorded(name: str, call: Callable[..., Any], sync: bool = False) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            with recorder.lock:
                path = None
                if sync:
                    recorder.look()  # what Python's own files wrote
                    path = Path(os.readlink(f"/proc/self/fd/{args[0]}"))
                answer = call(*args, **options)
                if path is None:
                    recorder.look()
                elif recorder.directory in (path, path.parent):
                    recorder.synced(path)
                return answer

        called.__name__ = name
        return called

    for name in ("pwrite", "pwritev", "write", "ftruncate", "posix_fallocate", "replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name), sync=True))
    monkeypatch.setattr(datafile, "allocate", recorded("allocate", datafile.allocate))
    plain = lmdb.open

    def opened(path: str | bytes, **options: Any) -> Any:
        with recorder.lock:
            env = plain(path, **options)
            place = Path(os.fsdecode(path))
            if place.parent != recorder.directory or options.get("readonly"):
                return env
            recorder.committed(place, bool(options.get("sync", True)))
            return _Env(env, recorder, place, bool(options.get("sync", True)))

    monkeypatch.setattr(lmdb, "open", opened)


@dataclass(slots=True)
class Medium:
    """What is on the medium for certain after the first operations, and which came since."""

    files: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    pending: list[Write | Name] = field(default_factory=list)

    def advance(self, op: Write | Name | Synced) -> None:
        """One more operation has happened."""
        if not isinstance(op, Synced):
            self.pending.append(op)
            return
        rest: list[Write | Name] = []
        for one in self.pending:
            if isinstance(one, Write) and one.file == op.file:
                _apply(self.files.setdefault(one.file, bytearray()), one, None)
            elif isinstance(one, Name) and op.file is None:
                _lead(self.names, one)
            elif isinstance(one, Name) and one.file == op.file:
                # A file that is synced is found under its name as well, as journalling file systems have it.
                _lead(self.names, one)
            else:
                rest.append(one)
        self.pending = rest

    def image(self, where: Path, kept: Callable[[Write | Name], bool | random.Random]) -> None:
        """Write what is left to the empty folder `where`; of the pending ones what `kept` says, or torn by it."""
        files = {number: bytearray(data) for number, data in self.files.items()}
        names = dict(self.names)
        for op in self.pending:
            keep = kept(op)
            if keep is False:
                continue
            if isinstance(op, Name):
                _lead(names, op)
            else:
                _apply(files.setdefault(op.file, bytearray()), op, None if keep is True else keep)
        for name, number in names.items():
            where.joinpath(name).write_bytes(files.get(number, b""))


def _lead(names: dict[str, int], op: Name) -> None:
    if op.file is None:
        names.pop(op.name, None)
    else:
        names[op.name] = op.file


def _apply(data: bytearray, op: Write, torn: random.Random | bool | None) -> None:
    for at, sector in op.sectors.items():
        if isinstance(torn, random.Random) and torn.random() < 0.5:
            continue
        if len(data) < at:
            data.extend(bytes(at - len(data)))
        data[at : at + len(sector)] = sector
    if len(data) > op.length and not (isinstance(torn, random.Random) and torn.random() < 0.5):
        del data[op.length :]
    elif len(data) < op.length:
        data.extend(bytes(op.length - len(data)))
