"""What a block format is: one on-disk form of a block, known by its layout name; and the sizes that all share."""

from __future__ import annotations

import abc
from typing import Final, TypeAlias

from lms_tiers.errors import InvalidBufferError

#: The smallest block that a format may use for encoding.
MIN_BLOCK: Final = 4096

#: Contiguous bytes.
Buffer: TypeAlias = bytes | bytearray | memoryview


class BlockFormat(abc.ABC):
    """One form of a block on disk. Stateless: one object serves all threads.

    A block may be encoded and decoded by itself, in any order, on any thread. Same bytes in, same bytes out: encoding
    depends on nothing but the data and the format.

    Attributes
    ----------
    layout : str
        The name stored on disk; it says everything that decoding needs beside the blocks and their size.
    block_bytes : int
        The block size that encoding uses: at least `MIN_BLOCK`. Decoding takes any that is a multiple of 64.
    """

    layout: str
    block_bytes: int

    @abc.abstractmethod
    def bound(self, nbytes: int) -> int:
        """The most bytes of `out` that a block of `nbytes` bytes can take: at most ``nbytes * 9 / 8 + 256``."""

    @abc.abstractmethod
    def encode_block(self, data: memoryview, out: memoryview) -> memoryview:
        """Encode `data` (1 to `block_bytes` bytes) into `out` (at least ``bound(len(data))``).

        Returns
        -------
        memoryview
            The block: the leading part of `out`, or `data` itself.
        """

    @abc.abstractmethod
    def decode_block(self, block: Buffer, out: memoryview) -> None:
        """Decode `block` into the whole of `out`, whose length is that of the data encoded.

        Raises
        ------
        CodecError
            The block is damaged: not exactly what some encoder writes for `out`'s length. `out` may hold anything.
            Damage that yields another valid block is for the caller's checksum to find.
        """


def flat(data: Buffer, *, writable: bool = False) -> memoryview:
    """`data` as one-dimensional contiguous bytes, or `InvalidBufferError`."""
    view = data if type(data) is memoryview else memoryview(data)
    if not view.c_contiguous:
        raise InvalidBufferError("a codec needs contiguous bytes.")
    if writable and view.readonly:
        raise InvalidBufferError("the destination of a codec must be writable.")
    if view.format == "B" and view.ndim == 1:
        return view
    if not view.nbytes:
        return memoryview(bytearray()) if writable else memoryview(b"")
    return view.cast("B")


def encode_bound(nbytes: int) -> int:
    """Bytes of scratch that serve to encode a chunk of `nbytes` bytes by any codec."""
    return nbytes + nbytes // 8 + 256 * block_count(nbytes, MIN_BLOCK)


def block_count(nbytes: int, block_bytes: int) -> int:
    """How many blocks a chunk of `nbytes` bytes has."""
    return -(-nbytes // block_bytes)
