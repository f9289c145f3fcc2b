"""What a client sends of one chunk."""

from __future__ import annotations

from typing import Any

from lms_tiers.messages import ChunkMeta, ClientMetaMessage, key_text, own_bytes
from lms_tiers.wire.extension import MAX_KEY_BYTES

#: Key, metadata, bytes.
Item = tuple[str, ChunkMeta, memoryview]


def item_of(client_meta: ClientMetaMessage, data: Any) -> Item:
    """A chunk to be sent, checked.

    Raises
    ------
    InvalidKeyError, InvalidChunkError
    """
    key = key_text(client_meta.key, MAX_KEY_BYTES)
    view = memoryview(data if isinstance(data, bytes | bytearray) else own_bytes(data))
    return key, ChunkMeta.of(client_meta, len(view)), view
