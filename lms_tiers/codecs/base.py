"""What a codec is: it cuts a chunk into blocks and encodes each by one block format.

A `Codec` chooses the `BlockFormat` for a chunk. Concrete formats, threads and scratch memory live in the modules beside
this one; nothing here knows backends.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from lms_tiers.codecs.blocks import decode_blocks, encode_blocks
from lms_tiers.codecs.form import MIN_BLOCK, BlockFormat, Buffer, block_count, encode_bound, flat
from lms_tiers.errors import CodecError

__all__ = [
    "MIN_BLOCK",
    "BlockFormat",
    "Buffer",
    "Codec",
    "EncodedChunk",
    "block_count",
    "codec_of",
    "decode_into",
    "encode_bound",
    "flat",
]


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
        data = flat(data)
        form = self.plan(data, dtype) if form is None else form
        return EncodedChunk(form.layout, form.block_bytes, encode_blocks(form, data, out, executor))


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
        Whose layout it is (look it up by ``codec_of(layout)``); None reads nothing. `builtin.decode_into` knows the
        built-in ones.
    executor : Executor, optional
        Decode blocks on its threads too, beside the calling one; see `Codec.encode`.

    Raises
    ------
    CodecError
        Unknown layout, wrong number of blocks, or a damaged block; `out` may hold anything.
    InvalidBufferError
        `out` is read-only or not contiguous.
    """
    out = flat(out, writable=True)
    if codec is None:
        raise CodecError(layout, "no codec was given that reads it.")
    form = codec.open(layout)
    if block_bytes < 64 or block_bytes % 64:
        raise CodecError(layout, f"a block of {block_bytes} bytes is no multiple of 64.")
    if len(blocks) != block_count(len(out), block_bytes):
        raise CodecError(layout, f"{len(blocks)} blocks of {block_bytes} bytes do not make {len(out)} bytes.")
    decode_blocks(form, block_bytes, blocks, out, executor)


def codec_of(layout: str) -> str:
    """The name of the codec that wrote a layout: what stands before the slash."""
    return layout.partition("/")[0]
