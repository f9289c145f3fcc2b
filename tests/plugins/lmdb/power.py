"""Records what a store does to its files, and makes what a power loss may leave of them.

Every system call of the store that changes or syncs a file is done under one lock and followed by a look at the whole
directory: what differs is what was written. LMDB's own calls are not seen from here; a transaction is what LMDB says it
is: its pages, a sync, its meta page, a sync (the syncs only where the file was opened with them).

The medium that may lose some of it is the conformance kit's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lmdb
import pytest
from lms_conformance.power.medium import SECTOR, Names, Synced, Write

from lms_tiers.plugins.lmdb import datafile

_META_BYTES: Final = 2 * 4096


@dataclass(slots=True)
class Recorder:
    """Writes, names and syncs of one directory, in their order."""

    directory: Path
    ops: list[Write | Names | Synced] = field(default_factory=list)
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
                self.ops.append(Names(((name, None),)))
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
            self.ops.append(Names(((name, known),)))
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
            self.ops.append(Synced(directory=""))
        elif (known := self._names.get(path.name)) is not None:
            self.ops.append(Synced(file=known))

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
