"""A tier's state as the file keeps it: compressed and checked. What is in it, and where it lies, others know."""

from __future__ import annotations

import logging

_log = logging.getLogger(__name__)


class DamagedState(Exception):
    """Bytes that are no packed state."""


def pack(state: bytes, limit: int, where: str) -> bytes:
    """`state` as kept; nothing, with a warning, where that takes more than `limit` bytes."""
    import zstandard

    packed = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(state) if state else b""
    if len(packed) <= limit:
        return packed
    _log.warning(
        "lmdb store %s: a tier's state of %d bytes is over the limit of %d and is not kept", where, len(packed), limit
    )
    return b""


def unpack(packed: bytes) -> bytes:
    """What `pack` made `packed` from.

    Raises
    ------
    DamagedState
    """
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise DamagedState(str(error)) from None
