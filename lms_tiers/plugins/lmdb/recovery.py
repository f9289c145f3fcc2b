"""What a store holds whose index is not trusted: from the index by way of a child process, or from records in `data`.

The journal comes on top. Nothing here writes; the first checkpoint makes an index of what is found.
"""

from __future__ import annotations

import logging
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, TypeAlias

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb import salvage
from lms_tiers.plugins.lmdb.directory import DATA_FILE, INDEX_FILE, descriptor
from lms_tiers.plugins.lmdb.extents import gaps
from lms_tiers.plugins.lmdb.index import APPLIED, Applied, checksum
from lms_tiers.plugins.lmdb.journal import CLOSED, GONE, PUT, Record, replay
from lms_tiers.plugins.lmdb.layout import (
    PAGE,
    STAMP,
    TAIL,
    Chunk,
    Damaged,
    Extent,
    at_page_end,
    key_hash,
    pack_extents,
    unpack_extents,
)
from lms_tiers.plugins.lmdb.pages import Counters
from lms_tiers.plugins.lmdb.space import charge, index_share, pages_of

_log = logging.getLogger(__name__)

#: After a crash, numbers that it may have lost are not given out again.
_SKIP: Final = 1 << 32
#: An index that lost more than this share of its chunks is not enough.
_LOST: Final = 1 / 64
_BLOCK: Final = 4 << 20
#: How a damaged file may end the process that maps it; anything else that ends the child is no fault of the file.
_DEADLY: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
#: checksum of the index, clock, chunks, charges, shares of the index, free runs with blocks
_CLOSED: Final = struct.Struct("<QQQQQQ")
#: First page, pages, sequence and key of a chunk that lies there.
_Claim: TypeAlias = tuple[int, int, int, str]


@dataclass(slots=True)
class Contents:
    """What a store holds.

    Attributes
    ----------
    source : str
        Where from: "closed" is the index as a clean close left it, which can be opened; else "index", "data" or "new",
        and all there is follows.
    records, places : dict
        Manifests by key; and sequence number and extents of each.
    uses : dict
        Stamps of last uses by key.
    position, clock : int
        The journal's end, and the last number given out.
    free, hollow : list of Extent
        What no chunk has before `end`: pages with blocks, or perhaps, and pages without.
    end : int
        Pages of the file, or more where chunks claim pages beyond its end, which is cut short then.
    lost : int
        Chunks that the index counted and did not have.
    """

    source: str
    records: dict[str, bytes] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    position: int = 0
    clock: int = 0
    free: list[Extent] = field(default_factory=list)
    hollow: list[Extent] = field(default_factory=list)
    end: int = 1
    lost: int = 0
    counters: Counters = field(default_factory=Counters)
    places: dict[str, tuple[int, list[Extent]]] = field(default_factory=dict)

    def take(self, chunk: Chunk, record: bytes) -> None:
        """A chunk is there, whatever was under its key before."""
        self.records[chunk.text] = record
        self.places[chunk.text] = chunk.sequence, chunk.extents

    def drop(self, text: str) -> None:
        """None is under this key."""
        self.records.pop(text, None)
        self.places.pop(text, None)


def closed(directory: Path, clock: int, counters: Counters, free: Sequence[Extent], hollow: Sequence[Extent]) -> Record:
    """What a clean close leaves in the journal, of an index that is written and closed."""
    head = _CLOSED.pack(checksum(directory), clock, counters.chunks, counters.charged, counters.share, len(free))
    return Record(CLOSED, clock, head + pack_extents([*free, *hollow]))


def as_closed(directory: Path, seed: int) -> Contents | None:
    """What `closed` told, where the index is, byte for byte, as it was then."""
    position, records = replay(directory, seed, 0)
    if len(records) != 1 or records[0].kind != CLOSED:
        return None
    body = records[0].body
    index, clock, chunks, charged, share, free = _CLOSED.unpack_from(body)
    with suppress(OSError):
        if checksum(directory) == index:
            runs = unpack_extents(body, _CLOSED.size, (len(body) - _CLOSED.size) // 8)
            end = 1 + pages_of(charged, share) + sum(count for _, count in runs)
            counters = Counters(chunks, charged, share)
            return Contents("closed", {}, {}, position, clock, runs[:free], runs[free:], end, counters=counters)
    return None


def recover(directory: Path, seed: int) -> Contents:
    """Everything that can be proven to be there."""
    data = directory / DATA_FILE
    found = _from_index(directory / INDEX_FILE, seed)
    contents, counted = (Contents("new"), 0) if found is None else found
    contents.position, journal = replay(directory, seed, contents.position)
    # What a checkpoint that was cut off has removed already is not lost.
    contents.lost = max(0, counted - len(contents.records) - sum(record.kind == GONE for record in journal))
    if found is None or contents.lost > counted * _LOST:
        contents = Contents("data", position=contents.position)
        _add_data(contents, data, seed)
        count = len(contents.records)
        _log.warning("lmdb store %s: its index is damaged; %d chunks were found in the data itself", directory, count)
    _add_journal(contents, journal, seed)
    _settle(contents, -(-data.stat().st_size // PAGE) if data.exists() else 0)
    contents.clock += _SKIP
    return contents


def _from_index(path: Path, seed: int) -> tuple[Contents, int] | None:
    """What a child process finds in the index, and the chunks it counted; None where that is not enough."""
    if not path.exists() or not path.stat().st_size:
        return None
    child = subprocess.Popen(
        [sys.executable, "-m", salvage.__name__, str(path)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=_environment(),
    )  # fmt: skip
    assert child.stdout is not None
    try:
        found, ended = _listen(child.stdout, seed)
        status = child.wait() if ended else None
    finally:
        child.kill()
        child.stdout.close()
        child.wait()
    if status not in (None, 0, salvage.SICK) and -status not in _DEADLY:
        reason = f"the process that looks at its index ended with status {status}: see its standard error."
        raise StorageUnavailableError(str(path.parent), reason)
    return found


def _listen(stream: IO[bytes], seed: int) -> tuple[tuple[Contents, int] | None, bool]:
    """What the child told, None where that is not enough; and whether it ended."""
    contents = Contents("index")
    applied: Applied | None = None
    section, last = 0, b""
    while section < 3:
        head = stream.read(salvage.FRAME.size)
        if len(head) < salvage.FRAME.size:
            return None, True
        nname, nvalue = salvage.FRAME.unpack(head)
        name, value = stream.read(nname), stream.read(nvalue)
        try:
            if not name:
                section += 1
            elif section == 0:
                applied = Applied.unpack(value) if name == APPLIED else applied
            elif name <= last:
                return None, False  # a tree that goes in circles
            else:
                last, record = name, value[STAMP.size :]
                chunk = Chunk.unpack(record, seed)
                if name == key_hash(chunk.text, seed):
                    contents.take(chunk, record)
                    contents.uses[chunk.text] = STAMP.unpack_from(value)[0]
        except (Damaged, struct.error):
            continue
    if applied is None or applied.seed != seed:
        return None, True
    contents.position, contents.clock = applied.position, applied.clock
    return (contents, applied.chunks), True


def _environment() -> dict[str, str]:
    """The child finds this package where this process found it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _add_data(contents: Contents, path: Path, seed: int) -> None:
    """What the records at the ends of pages tell, the latest of each key."""
    if not path.exists():
        return
    with descriptor(path) as fd:
        base = 0
        while block := os.pread(fd, _BLOCK, base):
            view = memoryview(block)
            for end in range(PAGE, len(block) + 1, PAGE):
                nbytes, at = at_page_end(view, end), base + end
                if not TAIL.size <= nbytes <= at:
                    continue
                record = os.pread(fd, nbytes, at - nbytes)
                try:
                    chunk = Chunk.unpack(record, seed)
                except Damaged:
                    continue
                known = contents.places.get(chunk.text)
                if (chunk.last_page + 1) * PAGE == at and (known is None or chunk.sequence >= known[0]):
                    contents.take(chunk, record)
            base += len(block)


def _add_journal(contents: Contents, journal: list[Record], seed: int) -> None:
    for kind, sequence, body in journal:
        if kind not in (PUT, GONE):
            continue
        contents.clock = max(contents.clock, sequence)
        try:
            chunk = Chunk.unpack(body, seed) if kind == PUT else None
            text = body.decode() if chunk is None else chunk.text
        except (Damaged, UnicodeDecodeError):
            continue
        contents.uses.pop(text, None)
        if chunk is None:
            contents.drop(text)
        else:
            contents.take(chunk, body)


def _settle(contents: Contents, pages: int) -> None:
    """Of chunks that claim the same pages the latest has them; count, and find what is free."""
    records, counters = contents.records, contents.counters
    claims: list[_Claim] = []
    for text, (sequence, extents) in contents.places.items():
        contents.clock = max(contents.clock, sequence)
        claims += [(page, count, sequence, text) for page, count in extents]
    claims.sort()
    while losers := _overlapping(claims):
        for text in losers:
            contents.drop(text)
        claims = [claim for claim in claims if claim[3] not in losers]
    for text, record in records.items():
        counters.charged += charge(sum(count for _, count in contents.places[text][1]), len(record))
        counters.share += index_share(len(record))
    counters.chunks = len(records)
    runs = [(0, 1), *[(page, count) for page, count, _, _ in claims]]
    contents.end = max(pages, *map(sum, runs))
    contents.free = gaps(runs, contents.end)
    contents.uses = {text: used for text, used in contents.uses.items() if used and text in records}
    contents.clock = max([contents.clock, *contents.uses.values()])


def _overlapping(claims: list[_Claim]) -> set[str]:
    losers: set[str] = set()
    last: _Claim | None = None
    for claim in claims:
        page, count, sequence, text = claim
        if page < 1 or page + count > 1 << 40:
            losers.add(text)
        elif last is None or last[0] + last[1] <= page:
            last = claim
        elif sequence >= last[2]:
            losers.add(last[3])
            last = claim
        else:
            losers.add(text)
    return losers
