"""Looking at and mending a store that nobody has open: check, inspect, compact. The commands are thin around these.

A look writes nothing, so it works on a read-only mount: an index that is not trusted is walked by a child process.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import lmdb

from lms_tiers.codecs.base import codec_of
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb.backend import LmdbBackend
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.directory import DATA_FILE, INDEX_FILE, TIER_FILE, Ownership, unavailable
from lms_tiers.plugins.lmdb.layout import PAGE, Chunk
from lms_tiers.plugins.lmdb.opening import identify
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.plugins.lmdb.reading import is_whole
from lms_tiers.plugins.lmdb.recovery import Contents, recover
from lms_tiers.plugins.lmdb.space import MIN_CAPACITY, Budget, charge

Progress = Callable[[int], None]

_OPTIONS: Final = LmdbOptions.model_validate({"codec": "raw"})


@contextmanager
def _looking(directory: Path) -> Iterator[tuple[Contents, int, int]]:
    """What a store holds that nobody opens meanwhile, its seed, and its capacity; nothing is written."""
    ownership = Ownership(directory, create=False)
    try:
        seed, capacity = identify(directory)
        if seed is None:
            raise StorageUnavailableError(str(directory), "no lmdb store is there: give the directory of `data`.")
        contents = recover(directory, seed)
        yield contents, seed, capacity or max(2 * contents.counters.charged, 64 << 20)
    finally:
        ownership.release()


def _chunks(contents: Contents, seed: int, progress: Callable[[int], Progress]) -> Iterator[Chunk]:
    step = progress(contents.counters.chunks)
    for number, record in enumerate(contents.records.values(), 1):
        step(number)
        yield Chunk.unpack(record, seed)


@dataclass(slots=True)
class Report:
    """What `check` found.

    Attributes
    ----------
    verdict : str
        Of the index: "sound", or "sick" where chunks were lost with it.
    reason : str
    chunks, damaged, lost : int
        Chunks read, those whose bytes failed, and those that the index counted and did not have.
    repaired : bool
        What was wrong is cleared away.
    """

    verdict: str
    reason: str = ""
    chunks: int = 0
    damaged: int = 0
    lost: int = 0
    repaired: bool = False
    damaged_keys: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or no longer."""
        return self.repaired or (self.verdict == "sound" and not self.damaged)


def check(directory: Path, repair: bool, progress: Callable[[int], Progress]) -> Report:
    """Walk the index in a child process, then verify every chunk.

    Parameters
    ----------
    repair : bool
        Write the index anew without what is damaged.
    progress : callable
        Given the number of chunks, answers what to call with how many are done.
    """
    report, capacity = _verified(directory, progress)
    if repair and not report.ok:
        with LmdbBackend(directory, capacity, _OPTIONS) as backend:
            backend.remove_many([OpaqueKey(key) for key in report.damaged_keys])
        report.repaired = True
    return report


def _verified(directory: Path, progress: Callable[[int], Progress]) -> tuple[Report, int]:
    """What `check` finds, and the store's capacity."""
    with _looking(directory) as (contents, seed, capacity):
        sound = contents.source == "index" and not contents.lost
        reason = "" if sound else f"records of the index are damaged; what is left was found in the {contents.source}"
        report = Report("sound" if sound else "sick", reason, contents.counters.chunks, lost=contents.lost)
        data = DataFile(directory / DATA_FILE, writable=False)
        try:
            report.damaged_keys = [one.text for one in _chunks(contents, seed, progress) if not is_whole(data, one)]
        finally:
            data.close()
        report.damaged = len(report.damaged_keys)
    return report, capacity


@dataclass(slots=True)
class Group:
    """Chunks of one dtype and codec."""

    chunks: int = 0
    length: int = 0
    encoded: int = 0
    stored: int = 0


@dataclass(slots=True)
class Contained:
    """What `inspect` found; ages in seconds since the put, bytes everywhere else."""

    chunks: int
    length: int
    stored: int
    file_bytes: int
    free_bytes: int
    youngest: float
    median_age: float
    oldest: float
    groups: dict[tuple[str, str], Group]


def inspect(directory: Path, progress: Callable[[int], Progress]) -> Contained:
    """Count chunks by dtype and codec, their bytes and ages; reads manifests only."""
    groups: dict[tuple[str, str], Group] = defaultdict(Group)
    created: list[int] = []
    live = 1
    with _looking(directory) as (contents, seed, _):
        for chunk in _chunks(contents, seed, progress):
            group = groups[chunk.meta.dtype or "none", codec_of(chunk.layout) or "raw"]
            group.chunks += 1
            group.length += chunk.meta.length
            group.encoded += chunk.stream
            group.stored += charge(chunk.pages, chunk.nrecord)
            live += chunk.pages
            created.append(chunk.created)
        blocks = (directory / DATA_FILE).stat().st_blocks * 512
        size = _on_disk(directory)
    now = time.time()
    created.sort()
    ages = [max(0.0, now - ms / 1000) for ms in created] or [0.0]
    return Contained(
        len(created), sum(group.length for group in groups.values()), contents.counters.charged,
        size, max(0, blocks - live * PAGE), ages[-1], ages[len(ages) // 2], ages[0], dict(groups),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compacted:
    """What `compact` did.

    Attributes
    ----------
    chunks, dropped, damaged : int
        Chunks kept, left out for want of room, and dropped because their bytes or manifest failed.
    before, after : int
        Bytes on disk.
    """

    chunks: int
    dropped: int
    damaged: int
    before: int
    after: int


def compact(directory: Path, capacity: int | None, progress: Callable[[int], Progress]) -> Compacted:
    """Give the file system everything back that no chunk needs: free pages of `data`, and of the index.

    With a `capacity`, the least recently used chunks that do not fit are removed.

    Raises
    ------
    ConfigError
        No store can have that capacity.
    """
    budget = None if capacity is None else Budget(capacity)
    before = _on_disk(directory)
    found, opened_with = _verified(directory, progress)
    with LmdbBackend(directory, max(opened_with, capacity or 0, MIN_CAPACITY), _OPTIONS) as backend:
        backend.remove_many([OpaqueKey(key) for key in found.damaged_keys])
        dropped = 0 if budget is None else _fit(backend, budget)
        tier = directory / TIER_FILE
        if budget is not None and tier.exists() and tier.stat().st_size > budget.state_limit:
            tier.unlink()  # that of a larger store would take the room that chunks were promised
        chunks = backend.held()[0]
        try:
            backend.shrink()
        except (OSError, lmdb.Error) as error:
            raise unavailable(directory, error, "cannot be compacted") from error
    if capacity is not None:
        LmdbBackend(directory, capacity, _OPTIONS).close()
    return Compacted(chunks, dropped, found.damaged + found.lost, before, _on_disk(directory))


def _fit(backend: LmdbBackend, budget: Budget) -> int:
    """Remove what does not fit, least recently used first; how many chunks."""
    over, left_out = backend.held()[1] - budget.usable, []
    for info in backend.scan():
        if over <= 0:
            break
        left_out.append(info.key)
        over -= info.stored_bytes
    backend.remove_many(left_out)
    return len(left_out)


def _on_disk(directory: Path) -> int:
    return sum(
        (directory / name).stat().st_blocks * 512 for name in (DATA_FILE, INDEX_FILE) if (directory / name).exists()
    )
