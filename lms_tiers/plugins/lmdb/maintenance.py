"""Looking at and mending a store that nobody has open: check, inspect, compact. The commands are thin around these."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lmdb

from lms_tiers.errors import FormatError, LmsTiersError, StorageUnavailableError
from lms_tiers.plugins.lmdb import layout, reading
from lms_tiers.plugins.lmdb.changes import Transaction, drop_damaged, put_parts
from lms_tiers.plugins.lmdb.checkpoint import discard, restore
from lms_tiers.plugins.lmdb.layout import COUNTERS_KEY, FORMAT_KEY, STAMP, Counters, Manifest, seal
from lms_tiers.plugins.lmdb.opening import SKIP, judged
from lms_tiers.plugins.lmdb.repair import clear_away, look
from lms_tiers.plugins.lmdb.sidecar import (
    COMPACT_DIR,
    DATA_FILE,
    Left,
    Ownership,
    boot_id,
    fresh_lock_file,
    move_aside,
    sync_file,
)
from lms_tiers.plugins.lmdb.space import Budget
from lms_tiers.plugins.lmdb.tables import Tables
from lms_tiers.plugins.lmdb.verify import RUN_HEADS, Verdict, verify

Progress = Callable[[int], None]

_log = logging.getLogger(__name__)

#: Chunks copied in one commit, at most, and bytes.
_BATCH, _BATCH_BYTES = 1000, 32 << 20


@dataclass(slots=True)
class Report:
    """What `check` found.

    Attributes
    ----------
    verdict : str
        Of the file's structure: "sound", "sick", "foreign", "version", or "missing".
    reason : str
    chunks, damaged, orphans : int
        Chunks read, those whose bytes or manifest failed, parts of no chunk.
    repaired : bool
        What was wrong is cleared away (a sick file: moved aside).
    """

    verdict: str
    reason: str = ""
    chunks: int = 0
    damaged: int = 0
    orphans: int = 0
    repaired: bool = False
    damaged_keys: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or no longer."""
        return self.repaired or (self.verdict == "sound" and not self.damaged and not self.orphans)


@contextmanager
def _owned(directory: Path) -> Iterator[Path]:
    if not (directory / DATA_FILE).exists():
        raise StorageUnavailableError(str(directory), "no lmdb store is there: give the directory of data.mdb.")
    ownership = Ownership(directory, create=False)
    try:
        left = Left.read(directory)
        # As opening does: what a power loss left is not to be judged, still less mended, but as of its checkpoint.
        if left is not None and not left.clean and left.boot != boot_id():
            restore(directory)
        yield directory / DATA_FILE
    finally:
        ownership.release()


@contextmanager
def _opened(directory: Path, verdict: Verdict) -> Iterator[tuple[Tables, Counters]]:
    fresh_lock_file(directory)
    size = max((directory / DATA_FILE).stat().st_size * 2, 64 << 20)
    tables = Tables(str(directory), size, sync=True)
    try:
        yield tables, tables.counters()
    finally:
        tables.close()


def _judge(directory: Path, data: Path, run_heads: int) -> Verdict:
    return judged(verify(str(data), run_heads), ours=Left.read(directory) is not None)


def _sound(directory: Path, data: Path) -> Verdict:
    verdict = _judge(directory, data, RUN_HEADS)
    if verdict.kind != "sound":
        raise FormatError(str(directory), f"a {verdict.kind} file ({verdict.reason})", "a sound store: run check")
    return verdict


def check(directory: Path, repair: bool, progress: Callable[[int], Progress]) -> Report:
    """Verify the structure in a child process, then every checksum.

    Parameters
    ----------
    repair : bool
        Delete damaged chunks and parts of no chunk; move a sick file aside.
    progress : callable
        Given the number of chunks, answers what to call with how many are done.
    """
    with _owned(directory) as data:
        verdict = _judge(directory, data, run_heads=1 << 62)
        if verdict.kind != "sound":
            report = Report(verdict.kind, verdict.reason)
            if repair and verdict.kind == "sick":
                move_aside(directory, verdict.reason)
                report.repaired = True
            return report
        report = Report("sound", chunks=verdict.chunks)
        with _opened(directory, verdict) as (tables, counters):
            bad = _read_all(tables, verdict.seed, report, progress(verdict.chunks))
            found = look(tables, verdict.seed)
            report.orphans = len(found.orphans)
            if repair and (bad or found.orphans or found.damaged or not verdict.consistent):
                discard(directory)
                counters = clear_away(tables, counters, verdict.seed)
                for hashed, sequence in bad:
                    with tables.env.begin(write=True, buffers=True) as txn:
                        drop_damaged(Transaction(txn, tables, counters), hashed, sequence, verdict.seed)
                        counters.transaction = txn.id()
                        txn.put(COUNTERS_KEY, counters.pack(), db=tables.meta)
                report.repaired = True
        return report


def _read_all(tables: Tables, seed: int, report: Report, step: Progress) -> list[tuple[bytes, int]]:
    bad: list[tuple[bytes, int]] = []
    with tables.env.begin(buffers=True) as txn:
        for number, (hashed, record) in enumerate(txn.cursor(tables.chunks), 1):
            step(number)
            try:
                manifest = Manifest.unpack(record, seed)
            except FormatError:
                report.damaged += 1
                continue
            try:
                reading.borrow(txn, tables, manifest)
            except reading.Damaged:
                report.damaged += 1
                report.damaged_keys.append(manifest.key.decode())
                bad.append((bytes(hashed), manifest.sequence))
    return bad


@dataclass(slots=True)
class Group:
    """Chunks of one dtype and codec."""

    chunks: int = 0
    length: int = 0
    encoded: int = 0
    stored: int = 0


@dataclass(slots=True)
class Contents:
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


def inspect(directory: Path, progress: Callable[[int], Progress]) -> Contents:
    """Count chunks by dtype and codec, their bytes and ages; reads manifests only."""
    groups: dict[tuple[str, str], Group] = defaultdict(Group)
    created: list[int] = []
    with _owned(directory) as data:
        verdict = _sound(directory, data)
        step = progress(verdict.chunks)
        with _opened(directory, verdict) as (tables, _), tables.env.begin(buffers=True) as txn:
            page = int(tables.env.stat()["psize"])
            for number, record in enumerate(txn.cursor(tables.chunks).iternext(keys=False), 1):
                step(number)
                try:
                    manifest = Manifest.unpack(record, verdict.seed)
                except FormatError:
                    continue
                group = groups[manifest.meta.dtype or "none", manifest.layout.partition("/")[0] or "raw"]
                group.chunks += 1
                group.length += manifest.meta.length
                group.encoded += manifest.stream
                group.stored += manifest.stored
                created.append(manifest.created)
        size = data.stat().st_size
    now = time.time()
    created.sort()
    ages = [max(0.0, now - ms / 1000) for ms in created] or [0.0]
    total = Group()
    for group in groups.values():
        total.chunks += group.chunks
        total.length += group.length
        total.stored += group.stored
    return Contents(
        total.chunks, total.length, total.stored, size, verdict.free_pages * page,
        ages[-1], ages[len(ages) // 2], ages[0], dict(groups),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compacted:
    """What `compact` did.

    Attributes
    ----------
    chunks, dropped, damaged : int
        Chunks kept, left out for want of room, and dropped because their bytes or manifest failed.
    before, after : int
        Bytes of data.mdb.
    """

    chunks: int
    dropped: int
    damaged: int
    before: int
    after: int


def compact(directory: Path, capacity: int | None, progress: Callable[[int], Progress]) -> Compacted:
    """Write the store anew without free pages, and put it in the old one's place in one step.

    Both lie on the disk meanwhile. With a `capacity`, the least recently used chunks that do not fit are left out.

    Raises
    ------
    ConfigError
        No store can have that capacity.
    """
    budget = None if capacity is None else Budget(capacity, layout.PAGE)
    with _owned(directory) as data:
        verdict = _sound(directory, data)
        before = data.stat().st_size
        new = directory / COMPACT_DIR
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir()
            with _opened(directory, verdict) as (tables, counters):
                found = _by_use(tables, verdict.seed)
                kept = _newest(found, budget.usable if budget else None)
                chunks = _copy(tables, new, counters, verdict.seed, kept, budget, progress(len(kept)))
            # Until the new file has its name the old one counts as closed, and its last writer may have been killed.
            sync_file(data)
            discard(directory)
            Left(True, boot_id()).write(directory)
            os.replace(new / DATA_FILE, data)
            sync_file(directory)
        except LmsTiersError:
            raise
        except (OSError, lmdb.Error) as error:
            raise StorageUnavailableError(str(directory), f"cannot be compacted: {error}.") from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        damaged = verdict.chunks - len(found) + len(kept) - chunks
        return Compacted(chunks, len(found) - len(kept), damaged, before, data.stat().st_size)


def _by_use(tables: Tables, seed: int) -> list[tuple[bytes, Manifest]]:
    """Key hash and manifest of every chunk whose manifest is whole, most recently used first."""
    found: list[tuple[int, bytes, Manifest]] = []
    with tables.env.begin(buffers=True) as txn:
        for hashed, record in txn.cursor(tables.chunks):
            with contextlib.suppress(FormatError):
                manifest = Manifest.unpack(record, seed)
                stamp = txn.get(hashed, db=tables.recency)
                last = max(manifest.sequence, STAMP.unpack(stamp)[0] if stamp else 0)
                found.append((last, bytes(hashed), manifest))
    found.sort(key=lambda entry: -entry[0])
    return [(name, manifest) for _, name, manifest in found]


def _newest(found: list[tuple[bytes, Manifest]], usable: int | None) -> dict[bytes, Manifest]:
    """The first of `found` whose stored bytes fit."""
    kept: dict[bytes, Manifest] = {}
    stored = 0
    for name, manifest in found:
        stored += manifest.stored
        if usable is not None and stored > usable:
            break
        kept[name] = manifest
    return kept


def _copy(
    tables: Tables, new: Path, counters: Counters, seed: int, kept: dict[bytes, Manifest], budget: Budget | None,
    step: Progress,
) -> int:  # fmt: skip
    """Write a new file of `kept` and of a tier's state; how many chunks it holds: damaged ones are left behind."""
    target = Tables(str(new), 2 * tables.file_bytes() + (64 << 20), sync=False)
    try:
        # Numbers that commits lost in a power loss gave out are not given out again: whether there was one, the new
        # file's state no longer tells.
        fresh = Counters(clock=counters.clock + SKIP)
        todo = iter(sorted(kept.items()))
        done = 0
        with tables.env.begin(buffers=True) as txn:
            finished = False
            while not finished:
                with target.env.begin(write=True, buffers=True) as out:
                    weight = 0
                    for _ in range(_BATCH):
                        hashed, manifest = next(todo, (b"", None))
                        if manifest is None:
                            finished = True
                            break
                        done += 1
                        step(done)
                        weight += _copy_chunk(txn, out, tables, target, hashed, manifest, fresh, seed)
                        if weight > _BATCH_BYTES:
                            break
                    fresh.transaction = out.id()
                    out.put(COUNTERS_KEY, fresh.pack(), db=target.meta)
            with target.env.begin(write=True) as out:
                state = [item for item in txn.cursor(tables.meta) if bytes(item[0]) not in (COUNTERS_KEY, FORMAT_KEY)]
                # That of a larger store would take the room that chunks were promised.
                if budget is not None and sum(len(value) for _, value in state) > budget.state_limit:
                    _log.warning("lmdb store %s: a tier's state is over the limit and is not kept", tables.path)
                    state = []
                for key, value in state:
                    out.put(key, value, db=target.meta)
                out.put(FORMAT_KEY, layout.pack_format(seed), db=target.meta)
                fresh.transaction = out.id()
                out.put(COUNTERS_KEY, fresh.pack(), db=target.meta)
        target.env.sync(True)
        return fresh.chunks
    finally:
        target.close()


def _copy_chunk(
    txn: lmdb.Transaction, out: lmdb.Transaction, tables: Tables, target: Tables, hashed: bytes, manifest: Manifest,
    fresh: Counters, seed: int,
) -> int:  # fmt: skip
    try:
        parts = reading.borrow(txn, tables, manifest)
    except reading.Damaged:
        return 0
    record = bytearray(txn.get(hashed, db=tables.chunks) or b"")
    pages = put_parts(out, target, manifest.sequence, parts)
    seal(record, manifest.sequence, manifest.created, pages, seed)
    out.put(hashed, record, db=target.chunks)
    stamp = txn.get(hashed, db=tables.recency)
    if stamp is not None:
        out.put(hashed, stamp, db=target.recency)
    fresh.chunks += 1
    fresh.stored += manifest.stored
    return manifest.stored
