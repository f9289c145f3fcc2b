"""From the option `codec` to encoded chunks and back, with the threads that help and the memory they reuse."""

from __future__ import annotations

import logging
import os
import threading
from typing import Final

from lms_tiers.arena.recycle import Recycler
from lms_tiers.codecs.base import Codec, EncodedChunk, decode_into, encode_bound
from lms_tiers.codecs.catalog import Catalog, current
from lms_tiers.codecs.workers import Crew
from lms_tiers.errors import CodecError
from lms_tiers.plugins.lmdb.layout import Chunk, Damaged

_log = logging.getLogger(__name__)

#: Below this a second thread costs more than it saves.
_PARALLEL_BYTES: Final = 1 << 20
#: Below this a chunk is stored as it is: it would not save a page.
_SMALLEST: Final = 4096


class Coding:
    """A codec and its threads, which start when first needed."""

    def __init__(self, codec: str, threads: int, memory: Recycler) -> None:
        self._memory: Final = memory
        self._catalog: Final[Catalog] = current()
        self._codec: Final[Codec] = self._catalog.make(codec)
        #: Whether chunks are encoded later, as they grow cold.
        self.later: Final = codec == "auto"
        #: Whether a put stores everything as it is.
        self.plain: Final = codec == "raw" or self.later
        self._readers: Final[dict[str, Codec | None]] = {}
        self._threads = threads or min(os.cpu_count() or 1, 4)
        self._lock = threading.Lock()
        self._crew: Crew | None = None

    def encode(self, data: memoryview, dtype: str | None, alone: bool = False) -> EncodedChunk | None:
        """The chunk encoded, in memory that is lent while its blocks are held; None where it is stored raw.

        `alone`: by this thread only.
        """
        if len(data) < _SMALLEST:
            return None
        form = self._codec.plan(data, dtype)
        if form.layout.startswith("raw/"):
            return None
        crew = None if alone else self._helpers(len(data))
        out = self._memory.take(encode_bound(len(data)))
        encoded = self._codec.encode(data, dtype, out=out, crew=crew, form=form)
        return None if encoded.layout.startswith("raw/") or encoded.nbytes >= len(data) else encoded

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

    def decode(self, chunk: Chunk, stream: memoryview, out: memoryview) -> None:
        """Decode the blocks that lie one after another in `stream`, of a layout that `reads` answers for.

        Raises
        ------
        Damaged
        """
        blocks: list[memoryview] = []
        at = 0
        for size in chunk.blocks:
            blocks.append(stream[at : at + size])
            at += size
        try:
            codec = self._readers.get(chunk.layout) or self._catalog.reader(chunk.layout)
            crew = self._helpers(len(out))
            decode_into(chunk.layout, chunk.block_bytes, blocks, out, codec=codec, crew=crew)
        except CodecError as error:
            raise Damaged(str(error)) from error

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            crew, self._crew = self._crew, None
        if crew is not None:
            crew.shutdown()

    def _helpers(self, nbytes: int) -> Crew | None:
        if self._threads < 2 or nbytes < _PARALLEL_BYTES:
            return None
        with self._lock:
            if self._crew is None:
                self._crew = Crew(self._threads - 1, "lms-tiers-lmdb-codec")
            return self._crew
