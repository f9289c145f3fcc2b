"""Chunks that can be named instead of spelled: a seed, a size and a kind say every byte and all metadata.

Programs printed by a failure import from here, so the names are part of the kit's public face.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from lms_conformance.lookalikes import named
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, LMSMemoryObj, MemoryFormat, torch_dtype

KIB: Final = 1024
MIB: Final = 1024 * 1024

#: (dtype, format, shape) by `kind`: what lands beside the bytes. Shapes are kept as given, whatever the length.
KINDS: Final[tuple[tuple[str | None, MemoryFormat, tuple[int, ...]], ...]] = (
    ("uint8", MemoryFormat.KV_2LTD, (2, 1, 3, 5)),
    ("bfloat16", MemoryFormat.KV_2LTD, (2, 4, 16, 8)),
    ("float16", MemoryFormat.KV_T2D, (7, 2, 8)),
    ("float32", MemoryFormat.KV_2TD, (2, 5, 1)),
    ("float64", MemoryFormat.KV_MLA_FMT, (3, 1)),
    ("float8_e4m3fn", MemoryFormat.EC_TD, (9,)),
    ("float8_e5m2", MemoryFormat.HS_TD, (1, 0, 4)),
    (None, MemoryFormat.BINARY_BUFFER, (11, 0, 0, 0)),
    (None, MemoryFormat.BINARY, ()),
    ("int8", MemoryFormat.UNDEFINED, (1, 1, 1, 1)),
    ("bfloat16", MemoryFormat.KV_2LTD, (2, 4, 16, 9)),
)


def key(text: str) -> CacheEngineKey:
    """The key of a text."""
    return CacheEngineKey.from_string(text)


class DuckKey:
    """A key of another library: nothing but `to_string`, and equal to nothing but itself."""

    def __init__(self, text: Any) -> None:
        self._text = text

    def to_string(self) -> Any:
        """What was given."""
        return self._text

    def __repr__(self) -> str:
        return f"DuckKey({self._text!r})"


def _pattern(seed: int, size: int) -> bytes:
    rng = random.Random(seed)
    match seed % 8:
        case 0:  # zeros at the end: what strips or pads shows
            return rng.randbytes(size // 2) + bytes(size - size // 2)
        case 1:  # like KV bytes: one noisy plane, one with few values
            noise = rng.randbytes(size // 2 + 1)
            out = bytearray(size)
            out[0::2] = noise[: len(out[0::2])]
            out[1::2] = bytes(60 + (b & 3) for b in noise[: len(out[1::2])])
            return bytes(out)
        case _:
            # randbytes counts bits in a C int: a quarter of a GiB at a time.
            step = 1 << 27
            return b"".join(rng.randbytes(min(step, size - at)) for at in range(0, size, step))


@lru_cache(maxsize=512)
def _small(seed: int, size: int) -> bytes:
    return _pattern(seed, size)


@lru_cache(maxsize=6)  # what is put is compared soon
def _recent(seed: int, size: int) -> bytes:
    return _pattern(seed, size)


def payload(seed: int, size: int) -> bytes:
    """`size` bytes that depend on `seed` alone."""
    make = _small if size <= 4 * KIB else _recent if size <= MIB else _pattern
    return make(seed, size)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk's bytes and metadata.

    Parameters
    ----------
    seed, size : int
        Choose the bytes (see `payload`).
    kind : int
        Index into `KINDS`.
    literal : bytes or None
        The bytes themselves, instead of those of `seed` and `size`.
    meta : tuple or None
        (dtype name, format name, shape) instead of those of `kind`.
    like : str or None
        The bytes of that name and `size` in `lms_conformance.lookalikes`, instead of those of `seed`.
    """

    seed: int = 3
    size: int = 0
    kind: int = 0
    literal: bytes | None = None
    meta: tuple[str | None, str, tuple[int, ...]] | None = None
    like: str | None = None

    def __len__(self) -> int:
        return self.size if self.literal is None else len(self.literal)

    def bytes(self) -> bytes:
        """The bytes a `get` must answer."""
        if self.like is not None:
            return named(self.size)[self.like]
        return payload(self.seed, self.size) if self.literal is None else self.literal

    def data(self) -> bytearray:
        """The same in a fresh bytearray, to be given away to `put`."""
        return bytearray(self.bytes())

    @property
    def described(self) -> tuple[str | None, MemoryFormat, tuple[int, ...]]:
        """dtype name, format and shape."""
        if self.meta is None:
            return KINDS[self.kind]
        dtype, fmt, shape = self.meta
        return dtype, MemoryFormat[fmt], shape

    def message(self, k: CacheEngineKey) -> ClientMetaMessage:
        """The put message that stores it under `k`."""
        import torch

        dtype, fmt, shape = self.described
        return ClientMetaMessage(ClientCommand.PUT, k, len(self), fmt, torch_dtype(dtype), torch.Size(shape))

    def __repr__(self) -> str:
        if self.literal is not None:
            head = f"literal={self.literal!r}"
        elif self.like is not None:
            head = f"like={self.like!r}, size={self.size}"
        else:
            head = f"seed={self.seed}, size={self.size}"
        tail = f", meta={self.meta!r}" if self.meta is not None else f", kind={self.kind}" if self.kind else ""
        return f"Chunk({head}{tail})"


def raw(obj: LMSMemoryObj) -> memoryview:
    """The bytes of a `get`, flat."""
    view = memoryview(obj.data)
    return view.cast("B") if view.nbytes else memoryview(b"")


def show(data: Any) -> str:
    """A buffer in a few words."""
    view = memoryview(data)
    head = bytes(view.cast("B")[:16]) if view.nbytes else b""
    return f"{view.nbytes} bytes {head!r}" + ("…" if view.nbytes > 16 else "")


def difference(chunk: Chunk, obj: LMSMemoryObj | None) -> str | None:
    """How an answer of `get` differs from the chunk that was put; None where it does not."""
    if obj is None:
        return "None"
    expected = chunk.bytes()
    data = raw(obj)
    if data.nbytes != len(expected):
        return f"{show(data)} instead of {len(expected)} bytes"
    if data != expected:
        at = next(i for i, (a, b) in enumerate(zip(data, expected, strict=True)) if a != b)
        return f"wrong bytes, the first at offset {at}: {data[at]:#04x} instead of {expected[at]:#04x}"
    dtype, fmt, shape = chunk.described
    if obj.length != len(expected):
        return f"length {obj.length} instead of {len(expected)}"
    if obj.fmt is not fmt:
        return f"format {obj.fmt} instead of {fmt}"
    if obj.dtype != torch_dtype(dtype):
        return f"dtype {obj.dtype} instead of {dtype}"
    if tuple(obj.shape) != shape:
        return f"shape {tuple(obj.shape)} instead of {shape}"
    return None


def same(obj: LMSMemoryObj | None, chunk: Chunk) -> bool:
    """Whether `get` answered exactly `chunk`."""
    return difference(chunk, obj) is None
