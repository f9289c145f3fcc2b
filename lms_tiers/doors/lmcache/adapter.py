"""`L2Adapter`: this store as a tier below LMCache's own memory, in its multi-process mode.

LMCache's loops call the `submit_*` methods, and wait for descriptors that tell of results; nothing here waits in them
for a transfer, a lock of the store's or a server.
"""

from __future__ import annotations

import binascii
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from lms_tiers.doors.lmcache import transfers
from lms_tiers.doors.lmcache.engine import (
    Bitmap,
    KeyEntry,
    KeyListPage,
    L2AdapterInterface,
    L2StoreResult,
    ObjectKey,
    create_event_notifier,
)
from lms_tiers.doors.lmcache.ledger import Ledger
from lms_tiers.doors.lmcache.names import Names, contradicts
from lms_tiers.doors.lmcache.options import AdapterOptions
from lms_tiers.doors.lmcache.place import Answer, Place
from lms_tiers.doors.lmcache.tasks import Kind, Tasks
from lms_tiers.doors.lmcache.transfers import Steps
from lms_tiers.errors import BackendClosedError, LmsTiersError
from lms_tiers.messages import ChunkMeta, OpaqueKey

_log = logging.getLogger(__name__)

#: Bytes of a task from which a second thread takes a part: it copies and checks while the other does. A store's parts
#: are larger, as writes to one file wait for each other, and only the checksums beside them do not.
_LOAD_PART: Final = 8 << 20
_STORE_PART: Final = 16 << 20
#: Seconds that a report waits for the store to say whether it works.
_REPORT_WAIT: Final = 2.0


class L2Adapter(L2AdapterInterface):  # type: ignore[misc]  # LMCache is not there when this is checked
    """A tier of LMCache's: ``module_path`` is ``lms_tiers.doors.lmcache``, ``class_name`` is ``L2Adapter``.

    Parameters
    ----------
    adapter_params : mapping
        See `AdapterOptions`; ``device`` is required.
    l1_memory_desc : object, optional
        Not needed.
    clock : callable
        Seconds, monotonic.

    Raises
    ------
    ConfigError, StorageUnavailableError, StorageLockedError, FormatError, PluginError
        As `CreateStorageBackend`; nothing is left open.
    """

    def __init__(
        self, adapter_params: Mapping[str, Any], l1_memory_desc: Any = None, *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        super().__init__(0)  # no capacity for LMCache to keep: the store keeps its own
        self._options: Final = AdapterOptions.parse("the L2 adapter", adapter_params)
        self._names: Final = Names(self._options.revision, self._options.namespace)
        self._clock: Final = clock
        self._ledger: Final = Ledger(self._tell_stored, self._tell_deleted)
        self._failed_stores = 0
        self._closing = False
        self._closed = False
        self._close_lock: Final = threading.Lock()
        self._place: Final = Place(self._options.device, self._sync, self._relist)
        self._notifiers: Final = {kind: create_event_notifier() for kind in Kind}
        try:
            self._tasks: Final = Tasks("lmcache", self._options.workers, self._tell, clock)
        except BaseException:
            self._place.close()
            raise
        self._place.tell()
        self._listing: Final = threading.Thread(target=self._list, name="lms-lmcache-listing", daemon=True)
        self._listing.start()
        self._listing.join(self._options.list_wait)

    # -- descriptors -------------------------------------------------------------------------------------------------

    def get_store_event_fd(self) -> int:
        """Readable when stores are done."""
        return int(self._notifiers[Kind.STORE].fileno())

    def get_lookup_and_lock_event_fd(self) -> int:
        """Readable when look-ups are done."""
        return int(self._notifiers[Kind.LOOKUP].fileno())

    def get_load_event_fd(self) -> int:
        """Readable when loads are done."""
        return int(self._notifiers[Kind.LOAD].fileno())

    def _tell(self, kind: Kind) -> None:
        self._notifiers[kind].notify()

    # -- stores ------------------------------------------------------------------------------------------------------

    def submit_store_task(self, keys: Sequence[Any], objects: Sequence[Any]) -> int:
        """Store objects under keys; what is there already is not stored again."""
        chunks, in_time = [self._names.key(key) for key in keys], self._until(self._options.store_within)
        store, held, note = self._place.store, self._held, self._note

        def part(begin: int, end: int) -> Any:
            some = chunks[begin:end], objects[begin:end]
            return transfers.storing(store, *some, in_time=in_time, held=held, stored=note)

        return self._tasks.submit(Kind.STORE, len(keys), part, self._parts(objects, _STORE_PART))

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        """Results of stores, each once: the bytes moved, or a failure where an object was not stored."""
        results = {}
        for task in self._tasks.take_all(Kind.STORE):
            succeeded = all(task.succeeded)
            self._failed_stores += not succeeded
            results[task.number] = L2StoreResult(succeeded, task.nbytes if succeeded else 0)
        return results

    # -- look-ups ----------------------------------------------------------------------------------------------------

    def submit_lookup_and_lock_task(self, keys: Sequence[Any], group_layout_descs: Mapping[int, Any]) -> int:
        """Look keys up, any of them, and lock each that is there until it is unlocked or its time is over."""
        chunks = [self._names.key(key) for key in keys]
        layouts = [group_layout_descs.get(key.object_group_id) for key in keys]

        def work() -> Steps:
            there = self._place.lock(chunks, self._options.lock_seconds)
            metas = [
                self._meta(chunk.to_string()) if locked else None for chunk, locked in zip(chunks, there, strict=True)
            ]
            other = [
                i for i, (chunk, meta, layout) in enumerate(zip(chunks, metas, layouts, strict=True))
                if meta is not None and contradicts(meta, chunk, layout)
            ]  # fmt: skip
            if other:
                self._place.unlock([chunks[i] for i in other])
                for i in other:
                    there[i] = False
            self._missed([chunk.to_string() for chunk, locked in zip(chunks, there, strict=True) if not locked])
            yield [i for i, locked in enumerate(there) if locked], 0

        return self._tasks.submit(Kind.LOOKUP, len(keys), lambda begin, end: work)

    def query_lookup_and_lock_result(self, task_id: int) -> Any | None:
        """Which keys are there and locked, once; None until that is known."""
        return self._bitmap(Kind.LOOKUP, task_id)

    def submit_unlock(self, keys: Sequence[Any]) -> None:
        """Give one lock of each key back; keys that have none are none of its business. It never fails."""
        chunks = [self._names.key(key) for key in keys]

        def work() -> Steps:
            self._place.unlock(chunks)
            yield [], 0

        self._tasks.aside(work)

    # -- loads -------------------------------------------------------------------------------------------------------

    def submit_load_task(self, keys: Sequence[Any], objects: Sequence[Any]) -> int:
        """Read objects; one that is stored with another length, dtype or shape is a miss and nothing is written."""
        chunks, in_time = [self._names.key(key) for key in keys], self._until(self._options.load_within)

        def part(begin: int, end: int) -> Any:
            inner = transfers.loading(self._place.store, chunks[begin:end], objects[begin:end], in_time=in_time)

            def work() -> Steps:
                missed = set(range(begin, end))
                try:
                    for there, nbytes in inner():
                        missed.difference_update(begin + at for at in there)
                        self._notify_keys_accessed([keys[begin + at] for at in there])
                        yield list(there), nbytes
                finally:
                    self._missed([chunks[at].to_string() for at in sorted(missed)])

            return work

        return self._tasks.submit(Kind.LOAD, len(keys), part, self._parts(objects, _LOAD_PART))

    def query_load_result(self, task_id: int) -> Any | None:
        """Which objects were read, once; None until the load is over."""
        return self._bitmap(Kind.LOAD, task_id)

    def _bitmap(self, kind: Kind, number: int) -> Any | None:
        task = self._tasks.take(kind, number)
        if task is None:
            return None
        bits = Bitmap(len(task.succeeded))
        bits.batched_set([i for i, succeeded in enumerate(task.succeeded) if succeeded])
        return bits

    def _parts(self, objects: Sequence[Any], nbytes: int) -> int:
        """How many parts of so many bytes, at least, a task is shared out in: no more than keep all threads busy."""
        return min(2 * self._options.workers, sum(int(obj.get_size()) for obj in objects) // nbytes)

    def _until(self, seconds: float) -> Callable[[], bool]:
        end = self._clock() + seconds
        return lambda: self._clock() < end

    # -- what is there, and the telling of it ------------------------------------------------------------------------

    def register_listener(self, listener: Any) -> None:
        """Tell `listener` of every change from now on, and first of all that is there."""

        def told(texts: Sequence[str], lengths: Sequence[int]) -> None:
            listener.on_l2_keys_stored(self._keys(texts), list(lengths))

        self._ledger.replay(lambda: super(L2Adapter, self).register_listener(listener), told)

    def delete(self, keys: Sequence[Any]) -> None:
        """Remove objects; returns when nobody can read them here any more."""
        chunks = [self._names.key(key) for key in keys]
        try:
            self._place.store.remove_many(chunks)
        except LmsTiersError as error:
            _log.warning("%d keys were not all deleted: %s", len(keys), error)
        self._missed([chunk.to_string() for chunk in chunks])

    def list_l2_keys(self, model_name: str | None = None, page_size: int = 500, cursor: str | None = None) -> Any:
        """A page of the keys that are there, with their lengths; `cursor` is the token of the page before.

        Raises
        ------
        ValueError
            `page_size` is not positive, or `cursor` is no token of a page.
        """
        if page_size <= 0:
            raise ValueError(f"page_size must be positive, not {page_size}.")
        try:
            text = binascii.a2b_hex(cursor or "").decode()
        except ValueError:
            raise ValueError(f"cursor {cursor!r} is no token of a page of keys.") from None
        if self._place.shared and cursor is None:
            self._list()
        entries: list[tuple[str, Any]] = []
        found = ((key, meta, self._names.parsed(key)) for key, meta in self._ledger.after(text))
        wanted = ((key, meta) for key, meta, name in found if name and model_name in (None, name.model_name))
        entries = list(islice(wanted, page_size + 1))
        more = len(entries) > page_size
        return KeyListPage(
            entries=tuple(
                KeyEntry(key=key.to_encoded_object_key(), size_bytes=meta.length)
                for key, (_, meta) in zip(self._keys([key for key, _ in entries[:page_size]]), entries, strict=False)
            ),
            next_page_token=binascii.b2a_hex(entries[page_size - 1][0].encode()).decode() if more else None,
        )

    def _keys(self, texts: Sequence[str]) -> list[Any]:
        names = [self._names.parsed(text) for text in texts]
        return [
            ObjectKey(
                chunk_hash=n.chunk_hash,
                model_name=n.model_name,
                kv_rank=n.kv_rank,
                object_group_id=n.object_group_id,
                cache_salt=n.cache_salt,
            )
            for n in names
            if n is not None
        ]

    def _tell_stored(self, texts: Sequence[str], lengths: Sequence[int]) -> None:
        self._notify_keys_stored(self._keys(texts), list(lengths))

    def _tell_deleted(self, texts: Sequence[str], lengths: Sequence[int]) -> None:
        self._notify_keys_deleted(self._keys(texts), list(lengths))

    def _held(self, texts: Sequence[str]) -> list[ChunkMeta | None]:
        """What is stored under each key, as far as it is known."""
        look = self._place.look
        if look is not None:
            return [look(text) for text in texts]
        metas = [self._ledger.get(text) for text in texts]
        known = [i for i, meta in enumerate(metas) if meta is not None]
        there = self._place.store.contains_many([OpaqueKey(texts[i]) for i in known]) if known else []
        for i, held in zip(known, there, strict=True):
            metas[i] = metas[i] if held else None
        return metas

    def _meta(self, text: str) -> ChunkMeta | None:
        known = self._ledger.get(text)
        return known if known is not None or self._place.look is None else self._place.look(text)

    def _sync(self, texts: Sequence[str]) -> None:
        """Some of these keys may have come or gone."""
        look = self._place.look
        if look is not None:
            with contextlib.suppress(BackendClosedError):
                self._ledger.sync([text for text in texts if self._names.parsed(text) is not None], look)

    def _note(self, stored: Sequence[tuple[str, ChunkMeta]]) -> None:
        """These were stored just now; a private store may have let them go again."""
        metas = dict(stored)
        self._ledger.sync(list(metas), self._place.look or metas.get)

    def _missed(self, texts: Sequence[str]) -> None:
        """These were not there just now."""
        known = [text for text in texts if self._ledger.get(text) is not None]
        if not known or self._closing:
            return
        if self._place.look is not None:
            self._sync(known)
        elif self._place.health()[0]:  # a server that is gone is no reason to forget what it holds
            there = self._place.store.contains_many(list(map(OpaqueKey, known)))
            self._ledger.sync([text for text, held in zip(known, there, strict=True) if not held], lambda text: None)

    def _relist(self) -> None:
        """Any key may have come or gone."""
        self._list()

    def _list(self) -> None:
        """Take what is there into the ledger, whoever stored it."""
        rest = set(self._ledger.texts())
        try:
            some: dict[str, ChunkMeta] = {}
            for chunk in self._place.chunks():
                text = chunk.key.to_string()
                if self._closing:
                    return
                if self._names.parsed(text) is not None:
                    some[text] = chunk.meta
                    rest.discard(text)
                if len(some) == 256:
                    self._note(list(some.items()))
                    some = {}
            self._note(list(some.items()))
            self._missed(list(rest))
        except LmsTiersError as error:
            _log.warning("what is stored cannot be listed, and is told of as it is used: %s", error)

    # -- health and end ----------------------------------------------------------------------------------------------

    def report_status(self) -> dict[str, Any]:
        """Whether every tier takes part, and a server answers; and what the store says of itself."""
        answer = Answer()

        def work() -> Steps:
            try:
                answer.give(self._place.health())
            except LmsTiersError as error:
                answer.give((False, {"error": str(error)}))
            yield [], 0

        asked = self._tasks.aside(work)
        said = answer.wait(_REPORT_WAIT) if asked else None
        waiting, running = self._tasks.counts()
        healthy, told = said or (False, {"error": "closed" if not asked else f"no answer in {_REPORT_WAIT:g} s"})
        return {
            "is_healthy": healthy and not self._closing, "type": "lms_tiers", "device": self._place.device,
            "shared": self._place.shared, "keys": len(self._ledger), "bytes": self.get_usage().total_bytes_used,
            "listing": self._listing.is_alive(), "waiting": waiting, "running": running,
            "failed_stores": self._failed_stores, **told,
        }  # fmt: skip

    def close(self) -> None:
        """End it. LMCache frees its memory after this: it waits for transfers that run, and drops those that wait."""
        with self._close_lock:
            if self._closed:
                return
            self._closing = True
            self._tasks.close()
            self._place.close()
            self._listing.join()
            for notifier in self._notifiers.values():
                notifier.close()
            self._closed = True
