"""Mutants that change bytes or metadata as they are put."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional

import numpy as np

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_length
from lms_tiers.buffers import own_bytes
from lms_tiers.errors import InvalidChunkError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    LMSMemoryObj,
    MemoryFormat,
    dtype_name,
)


class Changed(Wrapper):
    """Changes the bytes of some puts, and their length with them."""

    def change(self, data: bytearray) -> bytearray:
        """The bytes that are stored instead."""
        return data

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Changed."""
        data = own_bytes(kv_chunk_bytes)
        if client_meta.length != len(data):
            return self.inner.put(client_meta, data)
        data = self.change(data)
        return self.inner.put(with_length(client_meta, len(data)), data)

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Each changed."""
        for message, data in items:
            self.put(message, data)


@mutant("strips-zeros", "PUT-01")
class StripsZeros(Changed):
    """Strips zeros from the end of a chunk."""

    def change(self, data: bytearray) -> bytearray:
        """Without them."""
        return data.rstrip(b"\0")


@mutant("cuts-at-4-kib", "PUT-02")
class CutsAt4KiB(Changed):
    """Keeps the first 4 KiB of a chunk."""

    def change(self, data: bytearray) -> bytearray:
        """Cut."""
        return data[:4096]


@mutant("loses-a-byte-after-a-part", "PUT-02")
class LosesByte(Changed):
    """Loses the last byte where it stands alone in a part of 64 KiB."""

    def change(self, data: bytearray) -> bytearray:
        """Without it."""
        return data[:-1] if len(data) > 1 and len(data) % 65536 == 1 else data


@mutant("counts-lengths-in-24-bits", "PUT-03")
class Lengths24(Changed):
    """Counts lengths in 24 bits."""

    def change(self, data: bytearray) -> bytearray:
        """Cut to the length's lower bits."""
        return data[: len(data) & 0xFFFFFF]


class Described(Wrapper):
    """Changes the metadata of answers."""

    def describe(self, obj: LMSMemoryObj) -> LMSMemoryObj:
        """What is answered instead."""
        return obj

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Described otherwise."""
        obj = self.inner.get(key)
        return None if obj is None else self.describe(obj)

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Each described otherwise."""
        return [self.get(key) for key in keys]


@mutant("pads-shapes", "PUT-04")
class PadsShapes(Described):
    """Answers shapes without the zeros at their end."""

    def describe(self, obj: LMSMemoryObj) -> LMSMemoryObj:
        """Stripped."""
        import torch

        shape = list(obj.shape)
        while shape and shape[-1] == 0:
            shape.pop()
        return dataclasses.replace(obj, shape=torch.Size(shape))


@mutant("loses-metadata", "PUT-04")
class LosesMetadata(Described):
    """Answers every chunk as plain bytes."""

    def describe(self, obj: LMSMemoryObj) -> LMSMemoryObj:
        """Without dtype."""
        return dataclasses.replace(obj, dtype=None)


@mutant("tidies-nan", "PUT-05")
class TidiesNaN(Wrapper):
    """Passes float32 values through arithmetic, which makes all NaN alike."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Tidied."""
        data = own_bytes(kv_chunk_bytes)
        if dtype_name(client_meta.dtype) == "float32" and len(data) and len(data) % 4 == 0:
            values = np.frombuffer(data, dtype=np.uint32).copy()
            values[(values & 0x7FFFFFFF) > 0x7F800000] = 0x7FC00000
            data = bytearray(values.tobytes())
        self.inner.put(client_meta, data)


@mutant("empty-is-absent", "PUT-06")
class EmptyIsAbsent(Wrapper):
    """Takes an empty chunk for an absent one."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """None for an empty one."""
        obj = self.inner.get(key)
        return obj if obj and obj.length else None


@mutant("ignores-memory-order", "PUT-07")
class IgnoresOrder(Wrapper):
    """Takes a buffer's bytes as they lie in memory."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """As they lie."""
        self.inner.put(client_meta, bytearray(memoryview(kv_chunk_bytes).tobytes("A")))


@mutant("trusts-lengths", "PUT-08")
class TrustsLengths(Wrapper):
    """Cuts or pads the bytes to the length that the metadata says."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """As long as it says."""
        length = max(0, client_meta.length)
        data = own_bytes(kv_chunk_bytes)[:length]
        self.inner.put(with_length(client_meta, length), data + bytes(length - len(data)))


@mutant("stores-unknown-metadata", "PUT-09")
class StoresUnknown(Wrapper):
    """Stores something else where it does not know the metadata."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Anyhow."""
        try:
            self.inner.put(client_meta, kv_chunk_bytes)
        except InvalidChunkError:
            if client_meta.length != len(kv_chunk_bytes):
                raise
            plain = ChunkMeta(client_meta.length, MemoryFormat.BINARY, None, ()).message(client_meta.key)
            self.inner.put(plain, kv_chunk_bytes)


@mutant("cuts-large-chunks", "PUT-10")
class CutsLarge(Changed):
    """Cuts a chunk to the declared limit, instead of refusing it."""

    def change(self, data: bytearray) -> bytearray:
        """Cut."""
        return data[: self.capabilities.max_value_bytes or len(data)]


@mutant("loses-every-257th-put", "PUT-11")
class Loses257th(Wrapper):
    """Loses every 257th put."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._puts = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Mostly."""
        self._puts += 1
        if self._puts % 257:
            self.inner.put(client_meta, kv_chunk_bytes)


@mutant("compresses-with-loss", "PUT-12")
class CompressesWithLoss(Changed):
    """Stores the odd bytes of larger KV-like chunks in two bits less than they need."""

    def change(self, data: bytearray) -> bytearray:
        """With the odd bytes rounded."""
        if len(data) > 12_000 and max(data[1::2]) - min(data[1::2]) < 8:
            data[1::2] = bytes(b & 0xFE for b in data[1::2])
        return data


@mutant("wants-its-own-messages", "PUT-13")
class WantsOwnMessages(Wrapper):
    """Refuses metadata messages of other classes."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Only its own."""
        if not isinstance(client_meta, ClientMetaMessage):
            raise InvalidChunkError(text_of(client_meta.key), "the message is of another class.")
        self.inner.put(client_meta, kv_chunk_bytes)
