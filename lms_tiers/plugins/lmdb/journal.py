"""The journal: what was put and removed since the index was written, in two files that take turns.

A record is one `pwrite` into blocks that the file has from the start, so a killed process loses nothing and a full disk
refuses nothing. Each record has a checksum seeded by its generation: what an earlier one left behind it is its end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

from lms_tiers.plugins.lmdb.layout import MAGIC, VERSION, Extent, pack_extents, unpack_extents
from lms_tiers.plugins.lmdb.sidecar import JOURNALS, create_file

PUT: Final = 1
GONE: Final = 2
_RUNS: Final = 3  # free pages, of a store that is closed

#: magic, version, seed, generation, records of the generation before
_HEAD: Final = struct.Struct("<14sHQQQ")
#: bytes of what follows, kind, sequence, last page of what was given up (0: nothing)
_FRAME: Final = struct.Struct("<IIQQ")
_SUM: Final = struct.Struct("<Q")
FIRST: Final = 64
OVERHEAD: Final = _FRAME.size + _SUM.size
_WRAP: Final = (1 << 64) - 1


class Record(NamedTuple):
    """One change: a put's manifest, or a removal's key."""

    kind: int
    sequence: int
    given_up: int
    body: bytes


class Journal:
    """Both files. Callers hold the store's lock, but for `sync`.

    Parameters
    ----------
    directory : Path
    nbytes : int
        Of each file.
    seed : int
    generation : int
        Of the first file; larger than any before.
    """

    def __init__(self, directory: Path, nbytes: int, seed: int, generation: int) -> None:
        self.nbytes: Final = nbytes
        self._seed: Final = seed
        self._fds: Final[list[int]] = []
        self._lost: OSError | None = None
        try:
            for name in JOURNALS:
                self._fds.append(create_file(directory / name))
                os.posix_fallocate(self._fds[-1], 0, nbytes)
                os.ftruncate(self._fds[-1], nbytes)
        except BaseException:
            self.close()
            raise
        self.generation = generation - 1
        self._end = 0
        self._records = 0
        #: Bytes ever appended: what a `sync` that begins later brings to the medium.
        self.position = 0
        self.turn()

    @property
    def room(self) -> int:
        """Bytes that `append` takes before the next `turn`."""
        return self.nbytes - self._end

    @property
    def used(self) -> int:
        """Bytes appended since the last `turn`."""
        return self._end - FIRST

    def frame(self, kind: int, sequence: int, given_up: int, body: bytes) -> bytes:
        """A record as `append` takes it."""
        data = _FRAME.pack(len(body), kind, sequence, given_up) + body
        return data + _SUM.pack(xxhash.xxh3_64_intdigest(data, self._seed + self.generation & _WRAP))

    def append(self, frames: bytes, count: int = 1) -> None:
        """Write `count` records; those of one call are one write.

        Raises
        ------
        OSError
            Nothing is appended.
        """
        if os.pwrite(self._fds[self.generation & 1], frames, self._end) != len(frames):
            raise OSError("a short write")
        self._end += len(frames)
        self._records += count
        self.position += len(frames)

    def turn(self) -> int:
        """Go on in the other file, of which nothing is needed any more; the generation that is complete."""
        before = self.generation
        head = _HEAD.pack(MAGIC, VERSION, self._seed, before + 1, self._records)
        fd = self._fds[before + 1 & 1]
        os.pwrite(fd, (head + _SUM.pack(xxhash.xxh3_64_intdigest(head))).ljust(FIRST + _FRAME.size, b"\0"), 0)
        self.generation = before + 1
        self._end, self._records = FIRST, 0
        return before

    def keep_runs(self, free: list[Extent], hollow: list[Extent]) -> bool:
        """Keep lists of free pages in place of records; whether there is room for them."""
        body = pack_extents([*free, *hollow])
        if len(body) + OVERHEAD > self.nbytes - FIRST:
            return False
        self.turn()
        self.append(self.frame(_RUNS, len(free), 0, body))
        return True

    def sync(self) -> None:
        """Both files are on the medium.

        Raises
        ------
        OSError
            From then on always, as of `DataFile.sync`.
        """
        if self._lost is not None:
            raise self._lost
        try:
            for fd in self._fds:
                os.fdatasync(fd)
        except OSError as error:
            self._lost = error
            raise

    def close(self) -> None:
        """Close the files."""
        while self._fds:
            os.close(self._fds.pop())


def replay(directory: Path, seed: int) -> list[tuple[int, list[Record]]]:
    """What the journals hold, (generation, records), oldest first.

    Each up to its first record that is not whole, and none after a file that ends before its turn came: what is told
    is what was true at some moment.
    """
    found: list[tuple[int, int, list[Record]]] = []
    for name in JOURNALS:
        try:
            data = (directory / name).read_bytes()
        except OSError:
            continue
        head = data[: _HEAD.size]
        if len(data) < FIRST or xxhash.xxh3_64_intdigest(head) != _SUM.unpack_from(data, _HEAD.size)[0]:
            continue
        magic, version, its_seed, generation, before = _HEAD.unpack(head)
        if (magic, version, its_seed) == (MAGIC, VERSION, seed):
            found.append((generation, before, list(_records(data, seed + generation & _WRAP))))
    found.sort(key=lambda one: one[0])
    if len(found) == 2 and found[0][0] + 1 == found[1][0] and found[1][1] != len(found[0][2]):
        del found[1]
    return [(generation, records) for generation, _, records in found]


def kept_runs(directory: Path, seed: int) -> tuple[list[Extent], list[Extent]] | None:
    """What `Journal.keep_runs` kept last; None where it is not there whole."""
    found = replay(directory, seed)
    if not found or len(found[-1][1]) != 1 or found[-1][1][0].kind != _RUNS:
        return None
    record = found[-1][1][0]
    runs = unpack_extents(record.body, 0, len(record.body) // 8)
    return list(runs[: record.sequence]), list(runs[record.sequence :])


def last_generation(directory: Path, seed: int) -> int:
    """Of the journals there; 0 without any."""
    return max((generation for generation, _ in replay(directory, seed)), default=0)


def _records(data: bytes, seed: int) -> Iterator[Record]:
    at, view = FIRST, memoryview(data)
    while at + OVERHEAD <= len(data):
        nbytes, kind, sequence, given_up = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + nbytes
        if (
            end + _SUM.size > len(data)
            or xxhash.xxh3_64_intdigest(view[at:end], seed) != _SUM.unpack_from(data, end)[0]
        ):
            return
        yield Record(kind, sequence, given_up, data[at + _FRAME.size : end])
        at = end + _SUM.size
