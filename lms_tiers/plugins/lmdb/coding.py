"""From the option `codec` to encoded chunks and back, with the threads that help and the memory they reuse."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import numpy as np

from lms_tiers.codecs.base import Codec, decode_into, encode_bound
from lms_tiers.codecs.catalog import Catalog, current
from lms_tiers.codecs.workers import Crew
from lms_tiers.errors import CodecError
from lms_tiers.plugins.lmdb.layout import Damaged, Form

_log = logging.getLogger(__name__)

#: Below this a second thread costs more than it saves.
_PARALLEL_BYTES: Final = 1 << 20
#: Below this a chunk is stored as it is: it would not save a page.
_SMALLEST: Final = 4096
#: Scratch memory kept between puts.
_KEPT_BYTES: Final = 96 << 20


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk as it will be stored: encoded blocks one after another in `stream`, which borrows from the pool."""

    layout: str
    block_bytes: int
    lengths: tuple[int, ...]
    stream: memoryview


class Pool:
    """Buffers that puts take and give back: fresh memory costs more than encoding does."""

    def __init__(self, kept: int = _KEPT_BYTES) -> None:
        self._lock = threading.Lock()
        self._free: list[bytearray] = []
        self._room = kept

    def take(self, nbytes: int) -> bytearray:
        """A buffer of at least `nbytes`; undefined contents."""
        with self._lock:
            for i, buffer in enumerate(self._free):
                if nbytes <= len(buffer) <= 2 * nbytes + 65536:
                    self._room += len(buffer)
                    return self._free.pop(i)
        return bytearray(-(-nbytes // 65536) * 65536)

    def give(self, buffer: bytearray) -> None:
        """Nobody looks at it any more."""
        with self._lock:
            while self._free and self._room < len(buffer):
                self._room += len(self._free.pop(0))
            if self._room >= len(buffer):
                self._free.append(buffer)
                self._room -= len(buffer)


class Coding:
    """A codec and its threads, which start when first needed."""

    def __init__(self, codec: str, threads: int) -> None:
        self._catalog: Final[Catalog] = current()
        self._codec: Final[Codec] = self._catalog.make(codec)
        #: Whether chunks are encoded later, as they grow cold.
        self.later: Final = codec == "auto"
        #: Whether a put stores everything as it is.
        self.plain: Final = codec == "raw" or self.later
        self._readers: Final[dict[str, Codec | None]] = {}
        self._threads = threads or min(os.cpu_count() or 1, 4)
        self._lock = threading.Lock()
        self._executor: Crew | None = None
        self.pool: Final = Pool()

    def encode(self, data: memoryview, dtype: str | None, alone: bool = False) -> Encoded | None:
        """The chunk encoded into a buffer of the pool, which `Pool.give` takes back; None where it is stored raw.

        `alone`: by this thread only.
        """
        if len(data) < _SMALLEST:
            return None
        form = self._codec.plan(data, dtype)
        if form.layout.startswith("raw/"):
            return None
        scratch = self.pool.take(encode_bound(len(data)))
        try:
            helpers = None if alone else self._helpers(len(data))
            encoded = self._codec.encode(data, dtype, out=memoryview(scratch), executor=helpers, form=form)
            if encoded.layout.startswith("raw/") or encoded.nbytes >= len(data):
                return None
            stream = memoryview(self.pool.take(encoded.nbytes))
            at = 0
            for block in encoded.blocks:
                # numpy copies without the GIL.
                np.copyto(np.frombuffer(stream[at : at + len(block)], np.uint8), np.frombuffer(block, np.uint8))
                at += len(block)
            lengths = tuple(map(len, encoded.blocks))
            return Encoded(encoded.layout, encoded.block_bytes, lengths, stream[:at])
        finally:
            self.pool.give(scratch)

    def reads(self, layout: str) -> bool:
        """Whether a codec that is installed reads this layout; raw is no layout."""
        if not layout:
            return True
        try:
            return self._readers[layout] is not None
        except KeyError:
            pass  # the first chunk of its layout
        codec: Codec | None = None
        try:
            codec = self._catalog.reader(layout)
            codec.open(layout)
        except CodecError as error:
            codec = None
            _log.warning(
                "chunks of the layout %s cannot be read and are misses (%s); they are kept for when their codec is "
                "back, until they are overwritten or removed", layout, error,
            )  # fmt: skip
        self._readers[layout] = codec
        return codec is not None

    def decode(self, form: Form, lengths: tuple[int, ...], stream: memoryview, out: memoryview) -> None:
        """Decode the blocks that lie one after another in `stream`, of a layout that `reads` answers for.

        Raises
        ------
        Damaged
        """
        blocks: list[memoryview] = []
        at = 0
        for size in lengths:
            blocks.append(stream[at : at + size])
            at += size
        try:
            helpers = self._helpers(len(out))
            codec = self._readers.get(form.layout)
            decode_into(form.layout, form.block_bytes, blocks, out, codec=codec, executor=helpers)
        except CodecError as error:
            raise Damaged(str(error)) from error

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)

    def _helpers(self, nbytes: int) -> Executor | None:
        if self._threads < 2 or nbytes < _PARALLEL_BYTES:
            return None
        with self._lock:
            if self._executor is None:
                self._executor = Crew(self._threads - 1, "lms-tiers-lmdb-codec")
            return self._executor
