"""Is a file sound? Answered by a child process, because a damaged file can kill whoever maps it.

`inspect_file` is what the child does; `verify` starts it and turns its answer, or its death, into a `Verdict`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from lms_tiers.errors import FormatError, StorageUnavailableError
from lms_tiers.plugins.lmdb import layout
from lms_tiers.plugins.lmdb.pages import BIG, Entries, Fault, NotLmdb, PageFile, distinct, tables
from lms_tiers.sizes import format_size

Kind = Literal["sound", "sick", "foreign", "version"]

_KEY_BYTES: Final = {
    layout.CHUNKS: layout.HASH_BYTES,
    layout.PARTS: layout.PART_KEY.size,
    layout.RECENCY: layout.HASH_BYTES,
    layout.META: 0,
}
#: Up to so many values with pages of their own, the header of each is read too; deleting checks it in any case.
RUN_HEADS: Final = 20_000

_DEADLY: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a file.

    Attributes
    ----------
    kind : {"sound", "sick", "foreign", "version"}
        `foreign` is no file of ours, `version` one of ours, or of other pages, that this code does not read.
    reason : str
    seed : int
        The file's identity.
    transaction : int
        Its last commit.
    pages, free_pages : int
        Up to the last one in use, and how many of them are free.
    chunks, stored : int
        By its manifests, unverified.
    consistent : bool
        Counters, manifests and parts agree; otherwise what belongs to no chunk is to be cleared away.
    """

    kind: Kind
    reason: str = ""
    seed: int = 0
    transaction: int = 0
    pages: int = 0
    free_pages: int = 0
    chunks: int = 0
    stored: int = 0
    consistent: bool = True


def inspect_file(path: str, run_heads: int = RUN_HEADS) -> Verdict:
    """Check every tree page of a file, its list of free pages, and that each page has one owner.

    Values with pages of their own are not read: their checksums are verified when they are.
    """
    try:
        file = PageFile(path)
    except NotLmdb as fault:
        return Verdict("foreign", str(fault))
    except Fault as fault:
        return Verdict("sick", str(fault))
    if file.page != layout.PAGE:
        pages = format_size(file.page)
        return Verdict("version", f"an LMDB file with pages of {pages}, made on a machine that has such")
    try:
        return _inspect(file, run_heads)
    except (Fault, IndexError, ValueError, OverflowError) as fault:
        return Verdict("sick", str(fault))


def _inspect(file: PageFile, run_heads: int) -> Verdict:
    free, main = file.walk(file.meta.free, "free pages"), file.walk(file.meta.main, "tables")
    found: dict[bytes, Entries] = {}
    for name, tree in tables(file):
        if tree.flags:
            raise Fault(f"table {name!r} has unknown flags")
        found[name] = file.walk(tree, name.decode("ascii", "replace"), _KEY_BYTES.get(name, 0))
    if set(found) != set(_KEY_BYTES):
        return Verdict("foreign", "an LMDB file with other tables")
    everything = [free, main, *found.values()]
    for name, entries in ((b"free pages", free), *found.items()):
        if name != layout.PARTS or len(entries.runs) <= run_heads:
            file.check_run_heads(entries, name.decode())
    listed = file.free_pages(free)
    file.claim([listed, *(e.tree_pages for e in everything)], [(e.runs, e.run_pages) for e in everything])
    records = _records(file, found[layout.META])
    try:
        seed = layout.unpack_format(records.get(layout.FORMAT_KEY, b""), "the file")
        counters = layout.Counters.unpack(records.get(layout.COUNTERS_KEY, b""))
    except FormatError as error:
        return Verdict("version" if error.found.startswith("version") else "sick", error.found)
    if counters.transaction != file.meta.transaction:
        raise Fault("the last commit is not the one it should be")
    sequences, stored = _charges(file, found[layout.CHUNKS])
    consistent = (counters.chunks, counters.stored) == (len(sequences), stored)
    consistent = consistent and _claimed(file, found[layout.PARTS], sequences)
    return Verdict(
        "sound",
        "",
        seed,
        file.meta.transaction,
        file.meta.last_page + 1,
        len(listed),
        len(sequences),
        stored,
        consistent,
    )


def _records(file: PageFile, entries: Entries) -> dict[bytes, bytes]:
    """The two small records of the table META."""
    found = {}
    for number in range(len(entries.at)):
        key = file.read(int(entries.at[number]), int(entries.key_bytes[number]))
        if key in (layout.FORMAT_KEY, layout.COUNTERS_KEY):
            found[key] = file.value(entries, number)
    return found


def _charges(file: PageFile, chunks: Entries) -> tuple[npt.NDArray[np.uint64], int]:
    """Sequence number of each manifest, and the sum of what they are charged with."""
    if (chunks.value_bytes < layout.CHARGES_AT + 16).any():
        raise Fault("chunks: a manifest that is too short")
    at = chunks.value_at
    big = np.flatnonzero(chunks.flags & BIG)
    at[big] = chunks.runs * file.page + 16
    at = at + layout.CHARGES_AT
    return file.words(at), int(file.words(at + 8).sum())


def _claimed(file: PageFile, parts: Entries, sequences: npt.NDArray[np.uint64]) -> bool:
    """Whether every part belongs to a manifest."""
    owners = distinct(file.words(parts.at).byteswap())  # in key order, as the entries are
    claims = np.sort(sequences * np.uint64(layout.SPREAD))
    if not len(owners) or not len(claims):
        return not len(owners)
    found = claims[np.minimum(np.searchsorted(claims, owners), len(claims) - 1)]
    return bool((found == owners).all())


def verify(path: str, run_heads: int = RUN_HEADS) -> Verdict:
    """Check a file in a child process; a child that dies of it has found it sick.

    Raises
    ------
    StorageUnavailableError
        The child could not do its work.
    """
    search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    child = subprocess.run(
        [sys.executable, "-P", "-m", "lms_tiers.plugins.lmdb.verify", path, str(run_heads)],
        env={**os.environ, "PYTHONPATH": search, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    if -child.returncode in _DEADLY:
        return Verdict("sick", f"it killed the process that checked it ({signal.Signals(-child.returncode).name})")
    try:
        return Verdict(**json.loads(child.stdout))
    except (ValueError, TypeError):
        # The child, not the file, is at fault: an import that failed, no memory.
        told = child.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {child.returncode}"]
        raise StorageUnavailableError(path, f"could not be checked: {told[-1]}") from None


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(inspect_file(sys.argv[1], int(sys.argv[2])))))
