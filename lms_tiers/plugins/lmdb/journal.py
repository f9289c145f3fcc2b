"""The journal: what was put and removed since the index was written, in one file that is used round and round.

A record is one `pwrite` into blocks that the file has from the start, so a killed process loses nothing and a full disk
refuses nothing. Each record has a checksum seeded by its position, which only grows: what an earlier round left behind
a record is its end. The head says from where on records are needed; the index says so as well, and the later one is
right. A store that is closed has one record there, of what the next opening needs to know.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lms_tiers.plugins.lmdb.directory import JOURNAL_FILE, Syncable, create_file
from lms_tiers.plugins.lmdb.layout import PAGE, Damaged, pack_head, sealed, unpack_head, unsealed

PUT: Final = 1
GONE: Final = 2
CLOSED: Final = 3

#: bytes of the body, kind, sequence
_FRAME: Final = struct.Struct("<IIQ")
OVERHEAD: Final = _FRAME.size + 8


class Record(NamedTuple):
    """One change: a put's manifest, or a removal's key."""

    kind: int
    sequence: int
    body: bytes


class Journal(Syncable):
    """Callers hold the store's lock, but for `sync`.

    Parameters
    ----------
    directory : Path
    nbytes : int
        Of the file.
    seed : int
    """

    def __init__(self, directory: Path, nbytes: int, seed: int) -> None:
        super().__init__(create_file(directory / JOURNAL_FILE))
        self._ring: Final = nbytes - PAGE
        self._seed: Final = seed
        #: Bytes ever appended, and how many of them are not needed any more.
        self.position = self._start = 0
        self.begun = False

    def begin(self, position: int) -> None:
        """Use the file from a position on that is a multiple of its length; what it held is not needed.

        Raises
        ------
        OSError
        """
        os.posix_fallocate(self.fd, 0, self._ring + PAGE)
        os.ftruncate(self.fd, self._ring + PAGE)
        self.position = position
        self.release(position)
        self.begun = True

    @property
    def room(self) -> int:
        """Bytes that `append` takes before the next `release`."""
        return self._ring - self.used if self.begun else 0

    @property
    def used(self) -> int:
        """Bytes that are needed."""
        return self.position - self._start

    @property
    def pressing(self) -> bool:
        """Whether it is time for a `release`."""
        return self.used * 2 > self._ring

    def append(self, records: Sequence[Record]) -> None:
        """Write records, those of one call together.

        Raises
        ------
        OSError
            Nothing is appended.
        """
        frames, end = [], self.position
        for kind, sequence, body in records:
            frames.append(sealed(_FRAME.pack(len(body), kind, sequence) + body, self._seed + end))
            end += len(frames[-1])
        data, at = b"".join(frames), self.position % self._ring
        whole = at + len(data) <= self._ring
        for part, offset in ((data, at),) if whole else ((data[: self._ring - at], at), (data[self._ring - at :], 0)):
            if os.pwrite(self.fd, part, PAGE + offset) != len(part):
                raise OSError("a short write")
        self.position = end

    def release(self, position: int) -> None:
        """What was appended before `position` is not needed any more."""
        os.pwrite(self.fd, pack_head(self._seed, position), 0)
        self._start = position


def after(position: int, nbytes: int) -> int:
    """Where a journal of `nbytes` begins after a crash: nothing that was written is taken for a record there."""
    ring = nbytes - PAGE
    return (position // ring + 2) * ring


def replay(directory: Path, seed: int, applied: int) -> tuple[int, list[Record]]:
    """The position after the last record, and the records that stand behind an index that has those before `applied`.

    Up to the first one that is not whole: what is told is what was true at some moment.
    """
    path = directory / JOURNAL_FILE
    try:
        data = path.read_bytes()
    except OSError:
        return applied, []
    head = unpack_head(data, str(path))
    start = max(applied, head[1]) if head is not None and head[0] == seed else applied
    ring = len(data) - PAGE
    if ring <= 0:
        return start, []
    at = PAGE + start % ring
    records = list(_records(data[at:] + data[PAGE:at], seed + start))
    return start + sum(len(record.body) + OVERHEAD for record in records), records


def _records(data: bytes, seed: int) -> Iterator[Record]:
    at, view = 0, memoryview(data)
    while at + OVERHEAD <= len(data):
        nbytes, kind, sequence = _FRAME.unpack_from(data, at)
        end = at + OVERHEAD + nbytes
        if end > len(data):
            return
        try:
            yield Record(kind, sequence, bytes(unsealed(view[at:end], seed + at)[_FRAME.size :]))
        except Damaged:
            return
        at = end
