"""The keys and put messages of a replay's blocks: this package's own types, or LMCache's.

Backends take both by duck type. Nothing here knows the bytes of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import xxhash

from lms_tiers.errors import ConfigError
from lms_tiers.messages import LMSMemoryObj

KeyKind = Literal["native", "lmcache"]

_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class KeyTypes:
    """The types to build keys and messages with; any that look like LMCache's serve.

    Attributes
    ----------
    key : callable
        ``key(model_name, world_size, worker_id, chunk_hash, dtype)``.
    message : callable
        ``message(command, key, length, fmt, dtype, shape, location)``.
    put : Any
        The command of a put.
    fmt : Any
        The memory format of a chunk.
    """

    key: Callable[..., Any]
    message: Callable[..., Any]
    put: Any
    fmt: Any


def key_types(kind: KeyKind) -> KeyTypes:
    """The types of one kind.

    Raises
    ------
    ConfigError
        `kind` is ``"lmcache"`` and LMCache cannot be imported.
    """
    if kind == "native":
        from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat

        return KeyTypes(CacheEngineKey, ClientMetaMessage, ClientCommand.PUT, MemoryFormat.KV_2LTD)
    try:
        from lmcache.utils import CacheEngineKey as Key
        from lmcache.v1.memory_management import MemoryFormat as Format
        from lmcache.v1.protocol import ClientCommand as Command
        from lmcache.v1.protocol import ClientMetaMessage as Message
    except ImportError as error:
        raise ConfigError(f"keys of LMCache need the package lmcache, which cannot be imported: {error}.") from error
    return KeyTypes(Key, Message, Command.PUT, Format.KV_2LTD)


class BlockKeys:
    """Keys and messages of blocks of one size.

    Parameters
    ----------
    block_bytes : int
        It is part of the key: blocks of another size left in a store by an earlier replay are other chunks.
    types : KeyTypes
    """

    def __init__(self, block_bytes: int, types: KeyTypes) -> None:
        import torch

        self.block_bytes: Final = block_bytes
        self._types = types
        self._model = f"replay-{block_bytes}"
        self._dtype = torch.bfloat16
        values = block_bytes // 2
        tokens = _TOKENS if values % (2 * _TOKENS) == 0 else 1
        self._shape = torch.Size((2, 1, tokens, values // (2 * tokens)))

    def key(self, block_id: int | str) -> Any:
        """The key of a block."""
        if isinstance(block_id, str):
            block_id = xxhash.xxh3_128_intdigest(block_id.encode("utf-8", "surrogatepass"))
        return self._types.key(self._model, 1, 0, block_id, self._dtype)

    def message(self, key: Any) -> Any:
        """The message that puts a block under `key`."""
        types = self._types
        return types.message(types.put, key, self.block_bytes, types.fmt, self._dtype, self._shape, None)

    def describes(self, obj: LMSMemoryObj) -> bool:
        """Whether a chunk's metadata is what was put."""
        return (
            obj.length == self.block_bytes
            and obj.fmt.value == self._types.fmt.value
            and obj.dtype == self._dtype
            and tuple(obj.shape) == tuple(self._shape)
        )
