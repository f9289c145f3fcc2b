"""The way in: chunks are checked and encoded in the caller's thread, get their pages, are written, and then put.

Bytes first, then the record in the journal: neighbours of a batch are one write, their records another. What a chunk
borrows is held until both are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any, Final

from lms_tiers.errors import InvalidChunkError, StorageUnavailableError, ValueTooLargeError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import ChunkMeta, ClientMetaMessage, key_text
from lms_tiers.plugins.lmdb.checkpoint import Syncing
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.datafile import Piece, joined, laid
from lms_tiers.plugins.lmdb.directory import unavailable
from lms_tiers.plugins.lmdb.grants import Put
from lms_tiers.plugins.lmdb.layout import LONGEST, MAX_DIMENSIONS, MAX_KEY_BYTES, PAGE, Chunk
from lms_tiers.plugins.lmdb.reading import checksum_of
from lms_tiers.plugins.lmdb.space import pages_for
from lms_tiers.plugins.lmdb.store import Store

#: Chunks and bytes written together.
_TOGETHER: Final = 64
_TOGETHER_BYTES: Final = 8 << 20
#: So many chunks of another backend are borrowed at once.
_LENT_MOST: Final = 32


class Writer:
    """Puts of one store; `written` is called after chunks were put."""

    def __init__(self, store: Store, coding: Coding, syncing: Syncing) -> None:
        self.written: Callable[[], None] | None = None
        self._store: Final = store
        self._coding: Final = coding
        self._syncing: Final = syncing

    def put_many(self, items: Iterable[tuple[ClientMetaMessage, list[Any]]]) -> None:
        """Store chunks, each given as buffers, in order; where one fails, those before it are stored, others not."""
        group: list[Put] = []
        weight = 0
        try:
            for client_meta, buffers in items:
                if group:
                    self._store.calls.give_way()
                group.append(self._prepare(client_meta, buffers))
                weight += group[-1].stream
                if weight >= _TOGETHER_BYTES or len(group) >= _TOGETHER:
                    full, group, weight = group, [], 0
                    self._store_group(full)
        except (InvalidChunkError, ValueError):
            self._store_group(group)  # what came before a chunk that is refused
            raise
        self._store_group(group)

    def put_from(self, client_metas: Iterable[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """Store chunks as `source` lends them, in order; which of them it held as the messages say."""
        held: list[bool] = []
        metas = iter(client_metas)
        while some := list(islice(metas, _LENT_MOST)):
            with ExitStack() as views:
                self.put_many(_lent(some, source, views, held))
        return held

    def _prepare(self, client_meta: ClientMetaMessage, buffers: list[Any]) -> Put:
        text = key_text(client_meta.key, MAX_KEY_BYTES)
        pieces = [piece for piece in map(_flat, buffers) if len(piece)]
        length = sum(map(len, pieces))
        meta = ChunkMeta.of(client_meta, length)
        if len(meta.shape) > MAX_DIMENSIONS:
            raise InvalidChunkError(text, f"has {len(meta.shape)} dimensions; at most {MAX_DIMENSIONS} are stored.")
        if length > LONGEST:
            raise ValueTooLargeError(text, length, LONGEST, f"lmdb store {self._store.where}")
        put = Put(text, meta, created=time.time_ns() // 1_000_000, pieces=pieces)
        if pieces and not self._coding.plain:
            whole = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
            encoded = self.smaller(put, whole)
            if encoded is not None:
                return encoded
        put.checksum = checksum_of(pieces)
        return put

    def smaller(self, raw: Chunk, data: memoryview, instead: bytes | None = None) -> Put | None:
        """The put of a chunk encoded, whose bytes are `data`; None unless that saves a page: raw is read with one copy.

        `instead`: of a chunk that is there, whose record this is.
        """
        encoded = self._coding.encode(data, raw.meta.dtype, alone=instead is not None)
        if encoded is None:
            return None
        pieces = [memoryview(block) for block in encoded.blocks]
        put = Put(
            raw.text, raw.meta, encoded.layout, encoded.block_bytes, raw.sequence, blocks=tuple(map(len, pieces)),
            created=raw.created, pieces=pieces, instead=instead,
        )  # fmt: skip
        if pages_for(put.stream, put.nrecord) >= pages_for(raw.stream, raw.nrecord):
            return None
        put.checksum = checksum_of(pieces)
        return put

    def _store_group(self, group: list[Put]) -> None:
        """Put chunks; where that fails for want of room, one by one, so that what fits is stored."""
        if len(group) > 1:
            try:
                self._put(group)
                return
            except StorageUnavailableError:
                pass
        for put in group:
            self._put([put])

    def replace(self, copies: list[Put]) -> None:
        """Let encoded copies take the places of the raw chunks that are still there.

        Where the store syncs, the copies are on the medium before the journal tells of them, and that as well before
        this returns: what was promised of the raw chunks is promised of them.

        Raises
        ------
        CapacityError
            The last of them stay as they are.
        """
        self._put(copies)

    def _put(self, group: list[Put]) -> None:
        store, copies = self._store, group[0].instead is not None
        error: BaseException | None = None
        granted: list[Put] = []
        try:
            for put in group:
                if granted:
                    store.calls.give_way()
                if not store.complete:
                    store.find(put.text)  # what it replaces is to be known
                granted.append(put)
                try:
                    store.grant(put)
                except BaseException as caught:
                    store.take_back(granted.pop())
                    error = caught
                    break
            if granted:
                try:
                    pieces = [(piece, put) for put in granted for piece in _placed(put)]
                    store.data.write(piece for piece, _ in joined(pieces, gaps=False))
                    if copies and store.syncs:
                        store.data.sync()
                except OSError as caught:
                    raise unavailable(store.where, caught, "cannot be written") from caught
                position = store.publish(granted)
                granted = []
                if self.written is not None:
                    self.written()
                if copies or store.firm:
                    self._syncing.reach(position, None)
        finally:
            for put in granted:
                store.take_back(put)
        if error is not None:
            raise error


def _placed(put: Put) -> list[Piece]:
    """What a put writes where: its bytes, zeros, and its record."""
    nbytes = put.pages * PAGE
    end = bytes(nbytes - put.stream - len(put.record)) + put.record
    return laid(put.extents, [*put.pieces, memoryview(end)], nbytes)


def _lent(
    client_metas: Iterable[ClientMetaMessage], source: LMSBackendInterface, views: ExitStack, held: list[bool]
) -> Iterator[tuple[ClientMetaMessage, list[Any]]]:
    """What to put, borrowed until `views` ends; notes of each chunk whether `source` held it."""
    for client_meta in client_metas:
        view = views.enter_context(source.view(client_meta.key))
        held.append(view is not None and view.meta == ChunkMeta.of(client_meta, client_meta.length))
        if view is not None and held[-1]:
            yield client_meta, list(view.buffers)


def _flat(data: Any) -> memoryview:
    view = memoryview(data)
    if not view.c_contiguous:
        view = memoryview(view.tobytes("C"))
    return view.cast("B") if view.nbytes else memoryview(b"")
