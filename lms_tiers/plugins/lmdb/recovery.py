"""What a store holds whose index is not trusted: from the index by way of a child process, or from heads in `data`.

The journals come on top. Nothing here writes; `opening` makes a fresh index of what is found.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb import salvage
from lms_tiers.plugins.lmdb.index import APPLIED, Applied, hashed, sound_name
from lms_tiers.plugins.lmdb.journal import GONE, PUT, Record, replay
from lms_tiers.plugins.lmdb.layout import PAGE, STAMP, TAIL, Damaged, Extent, Manifest, at_page_end
from lms_tiers.plugins.lmdb.sidecar import DATA_FILE, INDEX_FILE
from lms_tiers.plugins.lmdb.space import charge, index_share

_log = logging.getLogger(__name__)

#: After a crash, numbers that it may have lost are not given out again.
SKIP: Final = 1 << 32
#: An index that lost more than this share of its chunks is not enough.
_LOST: Final = 1 / 64
_BLOCK: Final = 4 << 20
#: How a damaged file may end the process that maps it; anything else that ends the child is no fault of the file.
_DEADLY: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


@dataclass(slots=True)
class Contents:
    """What a store holds.

    Attributes
    ----------
    records : dict
        Stamp of the last use and manifest, by key hash.
    generation, clock : int
        Of the last journal, and the last number given out.
    free : list of Extent
        What no chunk has, up to the end of the file.
    given_up : set of int
        Last pages of chunks that the journals say are gone.
    source : str
        Where from: "index" or "data".
    lost : int
        Chunks that the index counted and did not have.
    """

    records: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    generation: int = 0
    clock: int = 0
    free: list[Extent] = field(default_factory=list)
    given_up: set[int] = field(default_factory=set)
    source: str = "index"
    lost: int = 0
    chunks: int = 0
    charged: int = 0
    share: int = 0


def recover(directory: Path, seed: int) -> Contents:
    """Everything that can be proven to be there."""
    contents, journals = _from_index(directory / INDEX_FILE, seed), replay(directory, seed)
    if contents is not None:
        # What a checkpoint that was cut off has removed already is not lost.
        since = [record for generation, records in journals if generation > contents.generation for record in records]
        contents.lost = max(0, contents.lost - sum(record.kind == GONE for record in since))
        if contents.lost > contents.chunks * _LOST:
            contents = None
    if contents is None:
        contents = _from_data(directory / DATA_FILE, seed)
        _log.warning(
            "lmdb store %s: its index is damaged; %d chunks were found in the data itself",
            directory,
            len(contents.records),
        )
    _add_journals(contents, journals, seed)
    _settle(contents, seed, _pages(directory / DATA_FILE))
    contents.generation = max(contents.generation, 0)  # no journal was there
    contents.clock += SKIP
    return contents


def _pages(path: Path) -> int:
    try:
        return -(-path.stat().st_size // PAGE)
    except FileNotFoundError:
        return 0


def _from_index(path: Path, seed: int) -> Contents | None:
    """What a child process finds in the index; None where that is not enough."""
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


def _listen(stream: IO[bytes], seed: int) -> tuple[Contents | None, bool]:
    """What the child told, None where that is not enough; and whether it ended."""
    contents = Contents()
    applied: Applied | None = None
    section, last = 0, b""
    while True:
        head = stream.read(salvage.FRAME.size)
        if len(head) < salvage.FRAME.size:
            return None, True
        nname, nvalue = salvage.FRAME.unpack(head)
        if not nname:
            section += 1
            if section == 3:
                break
            continue
        name, value = stream.read(nname), stream.read(nvalue)
        if section == 0:
            if name == APPLIED:
                applied = Applied.unpack(value)
            continue
        if name <= last:
            return None, False  # a tree that goes in circles
        last = name
        record = value[STAMP.size :]
        try:
            manifest = Manifest.unpack(record, seed)
        except Damaged:
            continue
        if sound_name(name) and name == hashed(manifest.key.decode(), seed):
            contents.records[name] = (STAMP.unpack_from(value)[0], record)
    if applied is None or applied.seed != seed:
        return None, True
    contents.lost, contents.chunks = max(0, applied.chunks - len(contents.records)), applied.chunks
    contents.generation, contents.clock = applied.generation, applied.clock
    return contents, True


def _from_data(path: Path, seed: int) -> Contents:
    """What the records at the ends of pages tell, the latest of each key."""
    contents = Contents(source="data", generation=-1)
    latest: dict[bytes, int] = {}
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return contents
    with file:
        keep, base = b"", 0  # a record may begin in the page before
        while block := file.read(_BLOCK):
            window = memoryview(keep + block)
            for end in range(len(keep) + PAGE, len(window) + 1, PAGE):
                nbytes = at_page_end(window, end)
                if nbytes < TAIL.size:
                    continue
                whole = (
                    bytes(window[end - nbytes : end])
                    if nbytes <= end
                    else _read_before(path, base - len(keep) + end, nbytes)
                )
                try:
                    manifest = Manifest.unpack(whole, seed)
                except Damaged:
                    continue
                if sum(manifest.extents[-1]) * PAGE != base - len(keep) + end:
                    continue
                name = hashed(manifest.key.decode(), seed)
                if manifest.sequence >= latest.get(name, 0):
                    latest[name] = manifest.sequence
                    contents.records[name] = (0, whole)
            base += len(block)
            keep = bytes(window[-PAGE:]) if len(window) % PAGE == 0 else b""
    return contents


def _read_before(path: Path, end: int, nbytes: int) -> bytes:
    if nbytes > end:
        return b""
    with path.open("rb", buffering=0) as file:
        file.seek(end - nbytes)
        return file.read(nbytes)


def _add_journals(contents: Contents, journals: list[tuple[int, list[Record]]], seed: int) -> None:
    for generation, records in journals:
        # Without an index, what each of them says was given up is of use, and each of its puts lies in `data` as well.
        fresh = generation > contents.generation
        for kind, sequence, given_up, body in records:
            if kind not in (PUT, GONE):
                continue
            contents.clock = max(contents.clock, sequence)
            if given_up:
                contents.given_up.add(given_up)
            if not fresh:
                continue
            if kind == GONE:
                contents.records.pop(hashed(body.decode(), seed), None)
                continue
            try:
                manifest = Manifest.unpack(body, seed)
            except Damaged:
                continue
            contents.records[hashed(manifest.key.decode(), seed)] = (0, body)
        contents.generation = max(contents.generation, generation)


def _settle(contents: Contents, seed: int, pages: int) -> None:
    """Of chunks that claim the same pages the latest has them; count, and find what is free."""
    claims: list[tuple[int, int, int, bytes]] = []
    for name, (_, record) in contents.records.items():
        manifest = Manifest.unpack(record, seed)
        contents.clock = max(contents.clock, manifest.sequence)
        claims += [(page, count, manifest.sequence, name) for page, count in manifest.extents]
    claims.sort()
    while True:
        losers = _overlapping(claims)
        if not losers:
            break
        for name in losers:
            del contents.records[name]
        claims = [claim for claim in claims if claim[3] not in losers]
    contents.chunks = len(contents.records)
    counts: dict[bytes, int] = {}
    at = 1  # after the head
    for page, count, _, name in claims:
        if page > at:
            contents.free.append((at, page - at))
        at = page + count
        counts[name] = counts.get(name, 0) + count
    if pages > at:
        contents.free.append((at, pages - at))
    for name, count in counts.items():
        nrecord = len(contents.records[name][1])
        contents.charged += charge(count, nrecord)
        contents.share += index_share(nrecord)


def _overlapping(claims: Iterable[tuple[int, int, int, bytes]]) -> set[bytes]:
    losers: set[bytes] = set()
    last: tuple[int, int, int, bytes] | None = None
    for claim in claims:
        page, count, sequence, name = claim
        if page < 1 or page + count > 1 << 40:
            losers.add(name)
            continue
        if last is not None and last[0] + last[1] > page:
            if sequence >= last[2]:
                losers.add(last[3])
                last = claim
            else:
                losers.add(name)
            continue
        last = claim
    return losers


def _environment() -> dict[str, str]:
    """The child finds this package where this process found it."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths}
