"""The keys and put messages of a replay's blocks: this package's own types, or LMCache's.

Backends take both by duck type. Nothing here knows the bytes of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import xxhash

from lms_tiers.errors import ConfigError
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    LMSMemoryObj,
    MemoryFormat,
    described,
    dtype_name,
)

KeyKind = Literal["native", "lmcache"]

_TOKENS: Final = 512
_DTYPE: Final = "bfloat16"


@dataclass(frozen=True, slots=True)
class KeyTypes:
    """The types to build keys and messages with; any that look like LMCache's serve.

    Attributes
    ----------
    key : callable
        ``key(model_name, world_size, worker_id, chunk_hash, dtype)``.
    dtype : Any
        That of keys, as those take it.
    putting : callable
        ``putting(length, shape)`` answers what makes the put message of a key.
    fmt : Any
        The memory format of a chunk.
    """

    key: Callable[..., Any]
    dtype: Any
    putting: Callable[[int, tuple[int, ...]], Callable[[Any], Any]]
    fmt: Any


def key_types(kind: KeyKind) -> KeyTypes:
    """The types of one kind. Our own need no torch, which takes longer to import than a small trace to replay.

    Raises
    ------
    ConfigError
        `kind` is ``"lmcache"`` and LMCache cannot be imported.
    """
    if kind == "native":
        fmt = MemoryFormat.KV_2LTD
        return KeyTypes(
            CacheEngineKey, _DTYPE, lambda length, shape: ChunkMeta(length, fmt, _DTYPE, shape).message, fmt
        )
    try:
        from lmcache.utils import CacheEngineKey as Key
        from lmcache.v1.memory_management import MemoryFormat as Format
        from lmcache.v1.protocol import ClientCommand as Command
        from lmcache.v1.protocol import ClientMetaMessage as Message
    except ImportError as error:
        raise ConfigError(f"keys of LMCache need the package lmcache, which cannot be imported: {error}.") from error
    import torch

    def putting(length: int, shape: tuple[int, ...]) -> Callable[[Any], Any]:
        size = torch.Size(shape)
        return lambda key: Message(Command.PUT, key, length, Format.KV_2LTD, torch.bfloat16, size, None)

    return KeyTypes(Key, torch.bfloat16, putting, Format.KV_2LTD)


class BlockKeys:
    """Keys and messages of blocks of one size.

    Parameters
    ----------
    block_bytes : int
        It is part of the key: blocks of another size left in a store by an earlier replay are other chunks.
    types : KeyTypes
    """

    def __init__(self, block_bytes: int, types: KeyTypes) -> None:
        self.block_bytes: Final = block_bytes
        self._types = types
        self._model = f"replay-{block_bytes}"
        values = block_bytes // 2
        tokens = _TOKENS if values % (2 * _TOKENS) == 0 else 1
        self._shape = (2, 1, tokens, values // (2 * tokens))
        self._putting = types.putting(block_bytes, self._shape)

    def key(self, block_id: int | str) -> Any:
        """The key of a block."""
        if isinstance(block_id, str):
            block_id = xxhash.xxh3_128_intdigest(block_id.encode("utf-8", "surrogatepass"))
        return self._types.key(self._model, 1, 0, block_id, self._types.dtype)

    def message(self, key: Any) -> Any:
        """The message that puts a block under `key`."""
        return self._putting(key)

    def describes(self, obj: LMSMemoryObj) -> bool:
        """Whether a chunk's metadata is what was put."""
        dtype, shape, _ = described(obj)
        return (
            obj.length == self.block_bytes
            and obj.fmt.value == self._types.fmt.value
            and dtype_name(dtype) == _DTYPE
            and tuple(shape) == self._shape
        )
