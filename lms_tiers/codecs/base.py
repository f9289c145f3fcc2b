"""What a codec is: it cuts a chunk into blocks and encodes each by one block format.

A `BlockFormat` is one on-disk form of a block, known by its layout name; a `Codec` chooses the format for a chunk.
Concrete formats, threads and scratch memory live in the modules beside this one; nothing here knows backends.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, TypeAlias

from lms_tiers.errors import CodecError, InvalidBufferError

#: The smallest block that a format may use for encoding.
MIN_BLOCK: Final = 4096

#: Contiguous bytes.
Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """One chunk as blocks.

    Attributes
    ----------
    layout : str
        Name of the block format, stored on disk beside the blocks: ``codec/version`` and what the format adds.
    block_bytes : int
        How many bytes of the chunk each block encodes; the last one may encode fewer.
    blocks : list of buffer
        ``ceil(len(chunk) / block_bytes)`` buffers, none empty. They borrow the chunk's own memory, or the `out` that
        was given to `encode`: valid until either changes.
    """

    layout: str
    block_bytes: int
    blocks: list[Buffer]

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks together."""
        return sum(len(block) for block in self.blocks)


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


class Codec(abc.ABC):
    """A way to encode chunks; the object is stateless and serves all threads.

    Attributes
    ----------
    name : str
        As in a device text: ``raw``, ``zstd:3``, ``planes``, ``auto``.
    """

    name: str

    @abc.abstractmethod
    def plan(self, data: memoryview, dtype: str | None) -> BlockFormat:
        """The block format for this chunk.

        Parameters
        ----------
        data : memoryview
            The whole chunk, as contiguous bytes.
        dtype : str or None
            A name of `lms_tiers.messages.DTYPE_NAMES`. A hint on what compresses: any bytes round-trip under any.
        """

    @abc.abstractmethod
    def open(self, layout: str) -> BlockFormat:
        """The block format of a layout that this codec writes.

        Raises
        ------
        CodecError
            The layout is not one of this codec's, or of a version it does not read.
        """

    def encode(
        self,
        data: memoryview,
        dtype: str | None,
        *,
        out: memoryview | None = None,
        executor: Executor | None = None,
        form: BlockFormat | None = None,
    ) -> EncodedChunk:
        """Encode a chunk.

        Parameters
        ----------
        data : memoryview
            Contiguous bytes; not changed.
        dtype : str or None
            See `plan`.
        out : memoryview, optional
            Writable scratch for the blocks, at least ``encode_bound(len(data))`` bytes. Reuse it: fresh memory costs
            more than encoding does. Without it each call allocates.
        executor : Executor, optional
            Encode blocks on its threads too, beside the calling one; without it the calling thread does it all. A
            `lms_tiers.codecs.workers.Crew` starts soonest.
        form : BlockFormat, optional
            What `plan` answered for this chunk, where the caller has asked already.

        Raises
        ------
        InvalidBufferError
            `data` or `out` is not contiguous, or `out` is read-only or too small.
        """
        from lms_tiers.codecs.blocks import encode_blocks

        data = flat(data)
        form = self.plan(data, dtype) if form is None else form
        return EncodedChunk(form.layout, form.block_bytes, encode_blocks(form, data, out, executor))


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


def decode_into(
    layout: str,
    block_bytes: int,
    blocks: Sequence[Buffer],
    out: memoryview,
    *,
    codec: Codec | None = None,
    executor: Executor | None = None,
) -> None:
    """Decode a whole chunk into `out`, whose length is the chunk's.

    Parameters
    ----------
    layout, block_bytes, blocks
        As `EncodedChunk` holds them.
    out : memoryview
        Writable contiguous bytes, exactly the chunk's length.
    codec : Codec, optional
        Whose layout it is, for codecs of plugins (look it up by ``codec_of(layout)``); default: the built-in ones.
    executor : Executor, optional
        Decode blocks on its threads too, beside the calling one; see `Codec.encode`.

    Raises
    ------
    CodecError
        Unknown layout, wrong number of blocks, or a damaged block; `out` may hold anything.
    InvalidBufferError
        `out` is read-only or not contiguous.
    """
    from lms_tiers.codecs.blocks import decode_blocks
    from lms_tiers.codecs.builtin import open_layout

    out = flat(out, writable=True)
    form = codec.open(layout) if codec is not None else open_layout(layout)
    if block_bytes < 64 or block_bytes % 64:
        raise CodecError(layout, f"a block of {block_bytes} bytes is no multiple of 64.")
    if len(blocks) != block_count(len(out), block_bytes):
        raise CodecError(layout, f"{len(blocks)} blocks of {block_bytes} bytes do not make {len(out)} bytes.")
    decode_blocks(form, block_bytes, blocks, out, executor)


def codec_of(layout: str) -> str:
    """The name of the codec that wrote a layout: what stands before the slash."""
    return layout.partition("/")[0]
