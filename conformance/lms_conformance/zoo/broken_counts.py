"""Mutants with a limit somewhere between a hundred and ten thousand, or that keep a little of each call."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, List, Optional

from lms_conformance.zoo.files import FileReference
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import BackendStats, ChunkInfo, ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj

Item = tuple[ClientMetaMessage, bytearray]


@mutant("lists-five-thousand-at-most", "LST-07")
class ListsFiveThousand(Wrapper):
    """Lists five thousand keys at most."""

    def list_keys(self) -> List[CacheEngineKey]:
        """The first of them."""
        return self.inner.list_keys()[:5000]


@mutant("lists-no-full-last-page", "LST-07")
class ListsNoFullPage(Wrapper):
    """Loses the last page of a listing where it is just full."""

    def list_keys(self) -> List[CacheEngineKey]:
        """By pages of 4096."""
        found = self.inner.list_keys()
        return found[:-4096] if found and len(found) % 4096 == 0 else found


@mutant("scans-ten-thousand-at-most", "LST-07")
class ScansTenThousand(Wrapper):
    """Scans ten thousand chunks at most."""

    def scan(self) -> Iterator[ChunkInfo]:
        """The first of them."""
        return itertools.islice(self.inner.scan(), 10_000)


@mutant("counts-keys-in-13-bits", "LST-07")
class CountsIn13Bits(Wrapper):
    """Counts its keys in 13 bits."""

    def stats(self) -> BackendStats:
        """Of them."""
        from dataclasses import replace

        found = self.inner.stats()
        return replace(found, keys=None if found.keys is None else found.keys % 8192)


@mutant("loses-put-number-2048", "LST-07")
class LosesPut(Wrapper):
    """Loses each 2048th chunk, single or in a batch."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._puts = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """But for one."""
        self._puts += 1
        if self._puts % 2048:
            self.inner.put(client_meta, kv_chunk_bytes)

    def put_many(self, items: Sequence[Item]) -> None:
        """But for one."""
        for message, data in items:
            self.put(message, data)


class _Batches(Wrapper):
    """Takes so many items of a batch."""

    limit: ClassVar[int] = 1000


@mutant("gets-a-thousand-of-a-batch", "BAT-08")
class GetsThousand(_Batches):
    """Reads the first thousand keys of a batch."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """And misses the others."""
        return [*self.inner.get_many(keys[: self.limit]), *[None] * (len(keys) - self.limit)]


@mutant("asks-for-999-of-a-batch", "BAT-08")
class Asks999(_Batches):
    """Asks for the first 999 keys of a batch, as many as a statement of SQL takes."""

    limit = 999

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """And takes the others for absent."""
        return [*self.inner.contains_many(keys[: self.limit]), *[False] * (len(keys) - self.limit)]


@mutant("counts-prefixes-in-a-byte", "BAT-08")
class CountsInByte(_Batches):
    """Counts a leading run up to 255."""

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """At most."""
        return min(self.inner.contains_prefix(keys), 255)


@mutant("puts-4096-of-a-batch", "BAT-08")
class Puts4096(_Batches):
    """Stores the first 4096 items of a batch."""

    def put_many(self, items: Sequence[Item]) -> None:
        """Of them."""
        self.inner.put_many(items[:4096])


@mutant("fills-a-thousand-of-a-batch", "BAT-08")
class FillsThousand(_Batches):
    """Reads the first thousand of a batch into their buffers."""

    def get_many_into(self, requests: Iterable[Any], **told: Any) -> list[ChunkMeta | None]:
        """And misses the others."""
        asked = list(requests)
        return [*super().get_many_into(asked[:1000], **told), *[None] * (len(asked) - 1000)]


@mutant("removes-a-thousand-of-a-batch", "RMV-08")
class RemovesThousand(_Batches):
    """Removes the first thousand keys of a batch."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Of them."""
        super().remove_many(keys[: self.limit])


@mutant("removes-more-than-a-batch", "RMV-08")
class RemovesMore(_Batches):
    """Clears everything where more than a hundred keys are removed at one time."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Or all."""
        super().remove_many(keys if len(keys) <= 100 else self.inner.list_keys())


# -- a little of each call -------------------------------------------------------------------------------------------


class _Keeps(Wrapper):
    """Keeps something of each call."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self.kept: list[Any] = []

    def keep(self, size: int = 1024) -> None:
        """A kibibyte."""
        self.kept.append(bytearray(size))


@mutant("keeps-a-kibibyte-of-each-put", "RES-09")
class KeepsOfPuts(_Keeps):
    """Keeps a kibibyte of each put."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And of it."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self.keep()


@mutant("keeps-a-kibibyte-of-each-miss", "RES-09")
class KeepsOfMisses(_Keeps):
    """Remembers each key that it missed."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """And of a miss."""
        found = self.inner.get(key)
        if found is None:
            self.kept.append(text_of(key).ljust(1024))
        return found


@mutant("keeps-a-kibibyte-of-each-refusal", "RES-09")
class KeepsOfRefusals(_Keeps):
    """Keeps the bytes of each put that was refused."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And those."""
        try:
            self.inner.put(client_meta, kv_chunk_bytes)
        except LmsTiersError:
            self.keep()
            raise


@mutant("keeps-a-kibibyte-of-each-view", "RES-09")
class KeepsOfViews(_Keeps):
    """Keeps a kibibyte of each view."""

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """And of it."""
        with self.inner.view(key) as view:
            self.keep()
            yield view


@mutant("keeps-a-kibibyte-of-each-key", "RES-09")
class KeepsOfKeys(_Keeps):
    """Keeps a lock and a record of each key that it ever held."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._locks: dict[str, bytearray] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And of its key."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._locks.setdefault(text_of(client_meta.key), bytearray(1024))


@mutant("keeps-the-notes-of-touches", "RES-09")
class KeepsOfTouches(_Keeps):
    """Keeps a log of what was touched, and never shortens it."""

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """And note it."""
        self.inner.touch(keys)
        self.keep()


@mutant("maps-memory-for-each-batch", "RES-10")
class MapsMemory(_Keeps):
    """Maps memory for each batch, and lets go of none."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """And map."""
        found = self.inner.get_many(keys)
        room = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        room[:1] = b"x"
        self.kept.append(room)
        return found


@mutant("keeps-memory-of-tensors", "RES-10")
class KeepsTensors(_Keeps):
    """Keeps a tensor of each that it answered, which Python knows nothing of."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """And keep a copy."""
        found = self.inner.get_tensor(key, out)
        if found is not None:
            self.kept.append(found.clone())
        return found


@mutant("leaves-files-of-refused-puts", "RES-11", base="files")
class LeavesFiles(FileReference):
    """Leaves what it had written of a put that was refused."""

    _number = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Or leave it."""
        try:
            super().put(client_meta, kv_chunk_bytes)
        except LmsTiersError:
            self._number += 1
            with suppress(OSError):
                (Path(self.path) / f"refused-{self._number}").write_bytes(bytes(kv_chunk_bytes))
            raise
