"""Mutants whose optional methods miss the lock that the main ones take, or what it means to be open or closed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, List, Optional

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.buffers import writable_bytes
from lms_tiers.errors import CapacityError
from lms_tiers.interface import ChunkInfo, ChunkView, LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    LMSMemoryObj,
)

Item = tuple[ClientMetaMessage, bytearray]


# -- locks -----------------------------------------------------------------------------------------------------------


@mutant("reads-into-buffers-in-two-steps", "CON-08")
class TwoSteps(Wrapper):
    """Reads the first bytes of a chunk into a buffer, looks the chunk up again, and reads the rest."""

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """In two steps."""
        first = self.inner.get(key)
        if first is None:
            return None
        target = writable_bytes(buffer, first.length)
        again = self.inner.get(key)
        data = bytes(first.data if again is None else again.data).ljust(first.length)
        half = first.length // 2
        target[:half] = bytes(first.data)[:half]
        target[half : first.length] = data[half : first.length]
        return ChunkMeta.of_obj(key, first)


@mutant("lends-bytes-and-metadata-of-two-puts", "CON-08")
class TwoPuts(Wrapper):
    """Looks the metadata up, and then the bytes."""

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """In two steps."""
        obj = self.inner.get(key)
        with self.inner.view(key) as view:
            yield None if view is None or obj is None else ChunkView(ChunkMeta.of_obj(key, obj), view.buffers)


@mutant("puts-back-what-was-removed-meanwhile", "CON-09")
class PutsBack(Wrapper):
    """Takes all chunks of a batch to be removed out, and puts back what it should not have taken."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """By way of everything."""
        texts = {text_of(k) for k in keys}
        others: list[tuple[CacheEngineKey, Optional[LMSMemoryObj]]] = [(k, self.inner.get(k)) for k in self.list_keys()]
        super().remove_many(keys)
        for key, obj in others:
            if obj is not None and key.to_string() not in texts:
                self.inner.put(ChunkMeta.of_obj(key, obj).message(key), bytearray(obj.data))

    def list_keys(self) -> List[CacheEngineKey]:
        """Of all chunks."""
        return self.inner.list_keys()


# -- what stays open -------------------------------------------------------------------------------------------------


@mutant("scans-under-its-lock", "OPT-08")
class ScansUnderLock(Wrapper):
    """Holds what writers need for as long as a scan is not read to its end."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._scanning: list[Any] = []

    def scan(self) -> Iterator[ChunkInfo]:
        """And hold it."""
        token = object()
        self._scanning.append(token)
        yield from list(self.inner.scan())
        self._scanning.remove(token)

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Or refuse to wait."""
        if self._scanning and text_of(client_meta.key):
            raise CapacityError("mutant", client_meta.length, 0)
        self.inner.put(client_meta, kv_chunk_bytes)


@mutant("scans-by-number", "OPT-08")
class ScansByNumber(Wrapper):
    """Scans what is at each place of its list, which a put beside it shifts."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """At the front."""
        self.inner.put(client_meta, kv_chunk_bytes)

    def scan(self) -> Iterator[ChunkInfo]:
        """By number."""
        i = 0
        while i < len(infos := list(self.inner.scan())):
            yield infos[i]
            i += 1


@mutant("checks-keys-of-the-main-methods", "OPT-10")
class ChecksMain(Wrapper):
    """Answers a batch that names an unusable key as if it were absent."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Or None."""
        return [self.inner.get(k) if text_of(k) and text_of(k).isprintable() else None for k in keys]


@mutant("answers-in-batches-after-close", "OPT-12")
class AnswersAfterClose(Wrapper):
    """Answers contains_many after close."""

    _ended = False

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """Ever."""
        return [False for _ in keys] if self._ended else self.inner.contains_many(keys)

    def close(self) -> None:
        """And know it."""
        self._ended = True
        self.inner.close()


@mutant("takes-tensors-after-close", "OPT-12")
class TakesTensorsAfterClose(Wrapper):
    """Takes tensors after close, and does nothing with them."""

    _ended = False

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """Or nothing."""
        if not self._ended:
            self.inner.put_tensor(client_meta, tensor)

    def close(self) -> None:
        """And know it."""
        self._ended = True
        self.inner.close()


@mutant("knows-batched-keys-by-class", "OPT-14")
class ByClass(Wrapper):
    """Knows keys of another library by their identity where it lends."""

    @contextmanager
    def view(self, key: Any) -> Iterator[ChunkView | None]:
        """Of its own class."""
        if isinstance(key, CacheEngineKey) or not text_of(key):
            with self.inner.view(key) as view:
                yield view
        else:
            yield None
