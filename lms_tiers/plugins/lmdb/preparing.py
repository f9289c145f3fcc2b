"""From a put's arguments to a chunk ready to be written: checked, encoded, cut into parts, and priced.

Runs in the caller's thread, so that many callers encode at once and the writer thread only writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import xxhash

from lms_tiers.errors import InvalidChunkError, ValueTooLargeError
from lms_tiers.messages import ChunkMeta, ClientMetaMessage, MemoryFormat, key_text
from lms_tiers.plugins.lmdb.changes import Prepared
from lms_tiers.plugins.lmdb.coding import Coding, Encoded
from lms_tiers.plugins.lmdb.layout import LONGEST, MAX_KEY_BYTES, Manifest, key_hash
from lms_tiers.plugins.lmdb.parts import FINER_PAGES, PART_PAGES, TAIL_MOST, Groups, cut, slices
from lms_tiers.plugins.lmdb.space import Budget

MAX_DIMENSIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Preparing:
    """How one store prepares chunks.

    Attributes
    ----------
    budget : Budget
    coding : Coding
    seed : int
        The file's hash seed.
    where : str
        The store's name in errors.
    """

    budget: Budget
    coding: Coding
    seed: int
    where: str

    def prepare(self, client_meta: ClientMetaMessage, data: Any) -> Prepared:
        """A put, ready for the writer; borrows `data`.

        Raises
        ------
        InvalidKeyError, InvalidChunkError, ValueTooLargeError
        """
        text = key_text(client_meta.key, MAX_KEY_BYTES)
        source = _flat(data)
        meta = ChunkMeta.of(client_meta, len(source))
        if len(meta.shape) > MAX_DIMENSIONS:
            raise InvalidChunkError(text, f"has {len(meta.shape)} dimensions; at most {MAX_DIMENSIONS} are stored.")
        key = text.encode()
        usable = self.budget.usable
        if len(source) > LONGEST:
            raise ValueTooLargeError(text, len(source), usable, f"lmdb store {self.where}")
        best = self._price(Manifest.raw(key, meta, self._groups(len(source))))
        stream = source
        encoded = self.coding.encode(source, meta.dtype)
        if encoded is not None:
            smaller = self._price(
                best._replace(
                    layout=encoded.layout, block_bytes=encoded.block_bytes, blocks=encoded.lengths,
                    groups=self._groups(len(encoded.stream)),
                )
            )  # fmt: skip
            # Raw unless it saves a page: raw is read with one copy.
            if smaller.stored + self.budget.page <= best.stored:
                best, stream = smaller, encoded.stream
        scratch = _buffer(encoded)
        try:
            if best.stored > usable:
                raise ValueTooLargeError(text, best.stored, usable, f"lmdb store {self.where}")
            # Over everything at once, in one step without the GIL; it does not depend on how the parts are cut.
            best = best._replace(checksum=xxhash.xxh3_64_intdigest(stream))
            return self._cut(Prepared(key_hash(key, self.seed), best, stream, (), bytearray(), scratch))
        except BaseException:
            self.give_back(scratch)
            raise

    def finer(self, chunk: Prepared, pages: tuple[int, ...]) -> Prepared:
        """The same chunk in smaller parts; it is charged a little more for their entries."""
        groups = self._groups(len(chunk.stream), pages)
        return self._cut(replace(chunk, manifest=self._price(chunk.manifest._replace(groups=groups))))

    def _cut(self, chunk: Prepared) -> Prepared:
        parts = slices(chunk.stream, chunk.manifest.groups)
        tail = bytes(chunk.stream[sum(map(len, parts)) :])
        manifest = chunk.manifest._replace(tail=tail)
        return replace(chunk, parts=parts, manifest=manifest, record=manifest.pack())

    def _groups(self, length: int, pages: tuple[int, ...] = PART_PAGES) -> Groups:
        return cut(length, self.budget.page, pages, tail=TAIL_MOST)

    def give_back(self, scratch: bytearray | None) -> None:
        """The writer is done with what a `Prepared` borrowed."""
        if scratch is not None:
            self.coding.pool.give(scratch)

    def reserve(self, length: int) -> int:
        """The charge of a chunk of `length` bytes, stored raw, in the smallest parts, under the longest key.

        No chunk of that length is charged more.
        """
        meta = ChunkMeta(length, MemoryFormat.UNDEFINED, None, (0,) * MAX_DIMENSIONS)
        key = b"k" * MAX_KEY_BYTES
        most = 0
        for pages in (PART_PAGES, *FINER_PAGES):
            manifest = Manifest.raw(key, meta, self._groups(length, pages))
            # A manifest that just fits into the tree is charged more than a longer one, which has a page of its own.
            for nbytes in (manifest.nbytes, min(manifest.nbytes, self.budget.manifest_most)):
                most = max(most, self.budget.charge(nbytes, manifest.groups))
        return most

    def _price(self, manifest: Manifest) -> Manifest:
        return manifest._replace(stored=self.budget.charge(manifest.nbytes, manifest.groups))


def _flat(data: Any) -> memoryview:
    view = memoryview(data)
    if not view.c_contiguous:
        view = memoryview(view.tobytes("C"))
    return view.cast("B") if view.nbytes else memoryview(b"")


def _buffer(encoded: Encoded | None) -> bytearray | None:
    owner = None if encoded is None else encoded.stream.obj
    return owner if isinstance(owner, bytearray) else None
