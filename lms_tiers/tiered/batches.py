"""The batch calls of a tiered store: many chunks by one call, in the order of their prefix chain.

As store.py, this checks arguments and hands on. What a call is for its caller says by a `RequestContext`; else it is
told by `request`, or by what the thread called before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from lms_tiers.changes import mending
from lms_tiers.errors import InvalidKeyError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.policies.base import AccessContext
from lms_tiers.request import RequestContext
from lms_tiers.tiered.known import Known
from lms_tiers.tiered.paths.runs import RunReader, Slot, SlotReader
from lms_tiers.tiered.paths.writes import Writer
from lms_tiers.tiered.state.index import known_texts
from lms_tiers.tiered.state.uses import Chains

#: Keys noted as used in one go: it takes the lock.
_STEP: Final = 256


class Batches(Known):
    """The calls of `TieredStore` that take many chunks."""

    _chains: Chains
    _clock: Callable[[], float]
    _max_key: int | None
    _runs: RunReader
    _slots: SlotReader
    _writer: Writer

    @mending
    def put_many(
        self, items: Sequence[tuple[ClientMetaMessage, bytearray]], *, context: RequestContext | None = None
    ) -> None:
        """Put the chunks of a prefix chain, in order.

        Parameters
        ----------
        context : RequestContext, optional
            What the call is for, of this and the other batch calls; else told by `request`, or by the thread's calls.
        """
        self._h.check_open()
        texts, refused = list[str](), None
        for meta, _ in items:
            try:
                texts.append(key_text(meta.key, self._max_key))
            except InvalidKeyError as error:
                refused = error  # those before it are stored
                items = items[: len(texts)]
                break
        if texts:
            self._settle_all(texts, change=True)
            contexts = self._chains.batch(self._clock(), texts, [meta.length for meta, _ in items], context)
            self._writer.put_many(items, texts, contexts)
        if refused is not None:
            raise refused

    @mending
    def get_many(
        self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None
    ) -> list[LMSMemoryObj | None]:
        """Get the chunks of a prefix chain, in order."""
        self._h.check_open()
        texts = known_texts(self._h.index, keys)
        self._settle_all(texts)
        contexts = self._chains.batch(self._clock(), texts, None, context)
        found = self._runs.get_many(keys, texts, contexts)
        beyond = self._beyond
        if beyond is not None:
            far = [i for i, obj in enumerate(found) if obj is None or beyond.edge.outdated(texts[i])]
            if far:
                read = beyond.get([keys[i] for i in far], [texts[i] for i in far], [contexts[i] for i in far])
                for i, obj in zip(far, read, strict=True):
                    found[i] = obj
        return found

    def contains_prefix(self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None) -> int:
        """How many of the leading `keys` are present without a gap."""
        self._h.check_open()
        texts = known_texts(self._h.index, keys)
        if context is None:
            self._chains.look_up(texts)
        if self._beyond is not None:
            return (*self._held(keys, texts), False).index(False)
        for i, text in enumerate(texts):
            if not self._contains(text):
                return i
        return len(texts)

    @mending
    def contains_many(self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None) -> list[bool]:
        """Which keys are present; a tier shared with others is asked once for all that the others lack.

        A `context` is taken as the other batch calls take it, and tells nothing: looking is no use of a chunk, and
        these keys need be no chain.
        """
        self._h.check_open()
        return self._held(keys, known_texts(self._h.index, keys))

    @mending
    def get_many_into(
        self, requests: Iterable[tuple[CacheEngineKey, Sequence[Any]]], *,
        expected: Sequence[ChunkMeta | None] | None = None, spoiled: set[int] | None = None,
        context: RequestContext | None = None,
    ) -> list[ChunkMeta | None]:  # fmt: skip
        """Read chunks into buffers, straight from the tier that holds them; see the interface.

        Neighbours are read by one call, so all requests are taken first. Where a chunk is about to rise into a faster
        tier, a read has a deadline, or a tier shared with others is asked, its bytes come by way of a copy.
        """
        self._h.check_open()
        wanted = list(requests)
        keys = [key for key, _ in wanted]
        slots = [Slot(buffers, None if expected is None else expected[i]) for i, (_, buffers) in enumerate(wanted)]
        texts = known_texts(self._h.index, keys)
        self._settle_all(texts)
        found = self._slots.read(keys, texts, self._chains.batch(self._clock(), texts, None, context), slots)
        if spoiled is not None:
            spoiled.update(i for i, slot in enumerate(slots) if slot.spoiled)
        return found

    @mending
    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """Note that `keys` were used, oldest first: in each private tier that holds them, as if they had been read."""
        self._h.check_open()
        texts = [key_text(key) for key in keys]
        self._settle_all(texts)
        h = self._h
        for at in range(0, len(texts), _STEP):
            with h.lock:
                h.recency.tell()  # what was used before
                context = AccessContext(self._clock())
                for text in texts[at : at + _STEP]:
                    if (entry := h.index.get(text)) is not None:
                        h.recency.use(text, entry, context)

    @mending
    def get_scattered(
        self, key: CacheEngineKey, buffers: Sequence[Any], *, expected: ChunkMeta | None = None
    ) -> ChunkMeta | None:
        """Read a chunk into buffers, straight from the tier that holds it; see the interface."""
        self._h.check_open()
        slot = Slot(buffers, expected)
        if slot.fault is not None:
            raise slot.fault
        text = key_text(key)
        self._h.settle(text)
        found = self._slots.read([key], [text], [self._chains.single(self._clock(), text)], [slot])[0]
        if slot.fault is not None:
            raise slot.fault
        return found

    @mending
    def put_from(
        self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface, *,
        context: RequestContext | None = None,
    ) -> list[bool]:  # fmt: skip
        """Store the chunks of a prefix chain out of another backend; the first tier takes them as it does best.

        That is without a copy in between where its backend can write what `source` lends: `lmdb`, `pinned`, `gpu`.
        """
        self._h.check_open()
        texts = [key_text(meta.key, self._max_key) for meta in client_metas]
        if not texts:
            return []
        self._settle_all(texts, change=True)
        contexts = self._chains.batch(self._clock(), texts, [meta.length for meta in client_metas], context)
        return self._writer.put_from(client_metas, texts, contexts, source)
