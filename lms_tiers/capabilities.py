"""What a backend says: what it can, what it counted, and of chunks that it lists, lends, or has in a file. No calls.

Programs import these from `lms_tiers` or from the interface, which answers with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lms_tiers.messages import CacheEngineKey, ChunkMeta

#: The version of this contract; a plugin declares the one it was written for.
CONTRACT_VERSION: Final = "1.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend offers beyond the five methods. Declared means must pass; not declared means `UnsupportedError`.

    Attributes
    ----------
    contract : str
        Version of the contract the backend was written for.
    remove : bool
        `remove` works; a tier needs it.
    persistent : bool
        What was flushed is there again after reopening the same location.
    tensors : bool
        `get_tensor` and `put_tensor` move device tensors without a trip through host bytes.
    evicts : bool
        Chunks may leave without a `remove` (a tiered store, a remote cache).
    policy : str or None
        The eviction policy whose order can be checked against a model, where `evicts`.
    forkable : bool
        Works in a forked child; otherwise it raises `ForkedProcessError` there.
    max_key_bytes, max_value_bytes : int or None
        Limits; None means none but memory. Every backend takes keys of 150 bytes and values of 32 MiB.
    shared : bool
        Others write to the same place at the same time: what `put` returned for, every other instance gets; nothing is
        remembered as absent; an instance that closes or dies takes nothing with it. Since contract 1.1.
    write_behind : bool
        Puts reach a shared place behind their caller: what `put` returned for is there after `flush`. Since contract
        1.1.
    batch_stops : bool
        Where an item of `put_many` fails, none after it is stored. False, for a medium that has them all on their way
        at one time: each of those after it is stored whole or not at all. Since contract 1.1.
    power : {None, "flush", "put"}
        What is there after a loss of power: nothing is promised, what was flushed, or what `put` returned for. Since
        contract 1.1.
    """

    contract: str = CONTRACT_VERSION
    remove: bool = False
    persistent: bool = False
    tensors: bool = False
    evicts: bool = False
    policy: str | None = None
    forkable: bool = False
    max_key_bytes: int | None = None
    max_value_bytes: int | None = None
    shared: bool = False
    write_behind: bool = False
    batch_stops: bool = True
    power: str | None = None


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """One stored chunk as `scan` lists it: key, metadata, and the physical bytes it takes."""

    key: CacheEngineKey
    meta: ChunkMeta
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class ChunkView:
    """Borrowed bytes of one chunk, in order, valid inside the `view` block only."""

    meta: ChunkMeta
    buffers: Sequence[memoryview]


@dataclass(frozen=True, slots=True)
class ChunkInFile:
    """Where the bytes of one chunk lie in a file, whole and as they were put; valid inside the `in_file` block only.

    Attributes
    ----------
    meta : ChunkMeta
    fd : int
        A descriptor of the file, which its owner closes.
    offset : int
        Where the ``meta.length`` bytes begin.
    checksum : int
        xxh3_64 of the bytes as they were put. Nobody has compared it with what is there now: whoever reads does.
    """

    meta: ChunkMeta
    fd: int
    offset: int
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStats:
    """Counters of one backend since it was opened; None where it does not know.

    Attributes
    ----------
    keys : int or None
    bytes_used, bytes_peak : int or None
        Physical bytes held now, and the most ever held (for a file: its size on disk).
    bytes_written, bytes_read : int
        Bytes moved to and from the medium.
    failures : int
        Operations the medium failed.
    corrupt : int
        Chunks found damaged and answered as misses.
    detail : mapping of str to float
        Whatever else the backend counts, by metric name.
    """

    keys: int | None = None
    bytes_used: int | None = None
    bytes_peak: int | None = None
    bytes_written: int = 0
    bytes_read: int = 0
    failures: int = 0
    corrupt: int = 0
    detail: Mapping[str, float] = field(default_factory=dict)
