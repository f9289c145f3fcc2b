"""What a codec is: it cuts a chunk into blocks and encodes each by one block format.

A `Codec` chooses the `BlockFormat` for a chunk: one on-disk form of a block, known by its layout name. Concrete
formats, threads and scratch memory live in the modules beside this one; nothing here knows backends.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lms_tiers.codecs.workers import Crew
from lms_tiers.errors import CodecError, ConfigError, InvalidBufferError

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

    Parameters
    ----------
    argument : str
        What stands after the colon in a device text, as in ``zstd:3``; one that takes none raises `ConfigError`.

    Attributes
    ----------
    name : str
        As in a device text: ``raw``, ``zstd:3``, ``planes``, ``auto``.
    """

    name: str

    def __init__(self, argument: str = "") -> None:
        if argument:
            raise ConfigError(f"codec {self.name} takes no argument; {argument!r} was given.")

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
        self, data: memoryview, dtype: str | None, *,
        out: memoryview | None = None, crew: Crew | None = None, form: BlockFormat | None = None,
    ) -> EncodedChunk:  # fmt: skip
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
        crew : Crew, optional
            Encode blocks on its threads too, beside the calling one; without it the calling thread does it all.
        form : BlockFormat, optional
            What `plan` answered for this chunk, where the caller has asked already.

        Raises
        ------
        InvalidBufferError
            `data` or `out` is not contiguous, or `out` is read-only or too small.
        """
        data = flat(data)
        form = self.plan(data, dtype) if form is None else form
        size = form.block_bytes
        count = block_count(len(data), size)
        slot = form.bound(min(size, len(data))) if count else 0
        target = memoryview(bytearray(slot * count)) if out is None else flat(out, writable=True)
        if len(target) < slot * count:
            raise InvalidBufferError(
                f"the scratch has {len(target)} bytes, {form.layout} needs {slot * count}: "
                f"give encode_bound(length) = {encode_bound(len(data))}."
            )
        blocks: list[Buffer] = [b""] * count

        def encode(i: int) -> None:
            blocks[i] = form.encode_block(data[i * size : (i + 1) * size], target[i * slot : (i + 1) * slot])

        _each(count, encode, crew)
        return EncodedChunk(form.layout, size, blocks)


def decode_into(
    layout: str, block_bytes: int, blocks: Sequence[Buffer], out: memoryview, *, codec: Codec, crew: Crew | None = None
) -> None:
    """Decode a whole chunk into `out`, whose length is the chunk's.

    Parameters
    ----------
    layout, block_bytes, blocks
        As `EncodedChunk` holds them.
    out : memoryview
        Writable contiguous bytes, exactly the chunk's length.
    codec : Codec
        Whose layout it is: `Catalog.reader` finds it.
    crew : Crew, optional
        Decode blocks on its threads too, beside the calling one.

    Raises
    ------
    CodecError
        Unknown layout, wrong number of blocks, or a damaged block; `out` may hold anything.
    InvalidBufferError
        `out` is read-only or not contiguous.
    """
    out = flat(out, writable=True)
    form = codec.open(layout)
    if block_bytes < 64 or block_bytes % 64:
        raise CodecError(layout, f"a block of {block_bytes} bytes is no multiple of 64.")
    if len(blocks) != block_count(len(out), block_bytes):
        raise CodecError(layout, f"{len(blocks)} blocks of {block_bytes} bytes do not make {len(out)} bytes.")

    def decode(i: int) -> None:
        form.decode_block(blocks[i], out[i * block_bytes : (i + 1) * block_bytes])

    try:
        _each(len(blocks), decode, crew)
    except (ValueError, TypeError, BufferError) as error:
        raise CodecError(layout, f"damaged block: {error}") from error


def _each(count: int, work: Callable[[int], None], crew: Crew | None) -> None:
    """Call ``work(0 … count - 1)``, also on the crew's threads; the first error is raised after all stopped.

    The calling thread takes part: it and the crew pull numbers from one counter, so that a busy crew delays nobody.
    """
    if crew is None or count < 2:
        for i in range(count):
            work(i)
        return
    todo = itertools.count()  # next() is atomic

    def run() -> None:
        for i in todo:
            if i >= count:
                return
            work(i)

    shares = crew.lend(run, count - 1)
    try:
        run()
    finally:
        # What was not begun is not waited for; what was must end before the buffers change hands.
        errors = [share.settle() for share in shares]
    for error in errors:
        if error is not None:
            raise error


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


def codec_of(layout: str) -> str:
    """The name of the codec that wrote a layout: what stands before the slash."""
    return layout.partition("/")[0]
