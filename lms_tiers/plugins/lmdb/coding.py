"""From the option `codec` to encoded chunks and back, with the threads that help."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

from lms_tiers.codecs.base import Codec, EncodedChunk, decode_into
from lms_tiers.codecs.raw import RawCodec
from lms_tiers.errors import CodecError
from lms_tiers.plugins.lmdb.layout import Manifest
from lms_tiers.plugins.lmdb.reading import Damaged

#: Below this a second thread costs more than it saves.
_PARALLEL_BYTES: Final = 1 << 20


class Coding:
    """A codec and its threads, which start when first needed."""

    def __init__(self, codec: str, threads: int) -> None:
        self._codec: Codec = RawCodec()
        self._threads = threads or min(os.cpu_count() or 1, 4)
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def encode(self, data: memoryview, dtype: str | None) -> EncodedChunk | None:
        """The chunk encoded; None where it is best stored as it is."""
        if not data or isinstance(self._codec, RawCodec):
            return None
        encoded = self._codec.encode(data, dtype, executor=self._helpers(len(data)))
        return None if encoded.layout.startswith("raw/") else encoded

    def decode(self, manifest: Manifest, stream: memoryview, out: memoryview) -> None:
        """Decode the blocks that lie one after another in `stream`.

        Raises
        ------
        Damaged
        """
        blocks: list[memoryview] = []
        at = 0
        for size in manifest.blocks:
            blocks.append(stream[at : at + size])
            at += size
        try:
            decode_into(
                manifest.layout, manifest.block_bytes, blocks, out, executor=self._helpers(len(out))
            )  # fmt: skip
        except CodecError as error:
            raise Damaged(str(error), manifest.sequence) from error

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
                self._executor = ThreadPoolExecutor(self._threads - 1, "lms-tiers-lmdb-codec")
            return self._executor
