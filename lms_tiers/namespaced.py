"""A backend seen from one namespace: the keys are the engine's own, and only chunks of that namespace are answered.

The digest of the namespace stands twice with every chunk: before its key, so that namespaces do not meet, and in its
metadata, where it is compared before anything is answered. Nothing here stores chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final, List, NoReturn, Optional

from lms_tiers.buffers import own_bytes
from lms_tiers.errors import ConfigError, LmsTiersError, UnsupportedError
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, ChunkView, LMSBackendInterface
from lms_tiers.keys import KeyLike, key_text
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    LMSMemoryObj,
    OpaqueKey,
    namespace_of,
)
from lms_tiers.namespace import PREFIX_BYTES, Namespace
from lms_tiers.request import RequestContext


class Namespaced(LMSBackendInterface):
    """One namespace of a backend that many share; doors for engines hold their store by this.

    Everything goes to `backend`, whose keys begin with the namespace's prefix. A chunk that is kept there under such a
    key without this namespace in its metadata, or with another, is a miss, and counted in `foreign`: not data, whatever
    the place holds and whoever wrote it. A backend keeps the namespace by keeping the `ChunkMeta` it is given, as one
    object or by `ChunkMeta.pack`. `contains`, `contains_many` and `contains_prefix` ask for keys only.

    Parameters
    ----------
    backend : LMSBackendInterface
        Closed with this one, unless `owns` is False. Its errors name keys with the prefix.
    namespace : Namespace
    owns : bool

    Attributes
    ----------
    backend : LMSBackendInterface
        For what a namespace has no part in: `stats`, tiers, leases (by `key`).
    namespace : Namespace
    foreign : int
        Chunks of other namespaces that were found, and not answered.

    Raises
    ------
    ConfigError
        The backend's longest key leaves no room for a prefix.

    Examples
    --------
    >>> from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
    >>> chunk = ChunkMeta(2, MemoryFormat.KV_2LTD, "bfloat16", (1,)).message(OpaqueKey("1f"))
    >>> with CreateStorageBackend("cpu") as store:
    ...     ours = Namespaced(store, Namespace(model="llama", dtype="bfloat16"))
    ...     theirs = Namespaced(store, Namespace(model="llama", dtype="float16"))
    ...     ours.put(chunk, bytearray(b"kv"))
    ...     ours.contains(chunk.key), theirs.contains(chunk.key)
    (True, False)
    """

    def __init__(self, backend: LMSBackendInterface, namespace: Namespace, *, owns: bool = True) -> None:
        offered = backend.capabilities
        longest = None if offered.max_key_bytes is None else offered.max_key_bytes - PREFIX_BYTES
        if longest is not None and longest <= 0:
            raise ConfigError(f"{type(backend).__name__} takes keys of {offered.max_key_bytes} bytes: too short.")
        self.backend: Final = backend
        self.namespace: Final = namespace
        self.foreign = 0
        self._owns: Final = owns
        self._digest: Final = namespace.digest
        self._prefix: Final = namespace.prefix
        # A tier's state is one for all namespaces; tensors pass the metadata by.
        self._capabilities: Final = replace(offered, max_key_bytes=longest, tensors=False, policy=None)

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # of this instance, not of the class
        """Those of the backend; keys are shorter by the prefix."""
        return self._capabilities

    def key(self, key: KeyLike) -> OpaqueKey:
        """The key under which the backend has the chunk of an engine's own key."""
        return OpaqueKey(self._prefix + key_text(key))

    def _message(self, client_meta: ClientMetaMessage, nbytes: int) -> ClientMetaMessage:
        key = self.key(client_meta.key)
        return ChunkMeta.of(client_meta, nbytes).within(self._digest).message(key)

    def _context(self, context: RequestContext | None) -> dict[str, RequestContext]:
        """The argument of a batch call, if there is one, with keys as the backend has them."""
        if context is None:
            return {}
        if not context.chain and not context.partial_keys:
            return {"context": context}
        chain, partial = (list(map(self.key, keys)) for keys in (context.chain, context.partial_keys))
        return {"context": replace(context, chain=chain, partial_keys=partial)}

    def _meta(self, meta: ChunkMeta | None) -> ChunkMeta | None:
        """What is said of a chunk, without the namespace; None where it is of another."""
        if meta is None or meta.namespace == self._digest:
            return meta and meta.within(None)
        self.foreign += 1
        return None

    def _obj(self, obj: LMSMemoryObj | None) -> LMSMemoryObj | None:
        if obj is None or namespace_of(obj) == self._digest:
            return obj
        self.foreign += 1
        return None

    # -- the five ----------------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """See `LMSBackendInterface`."""
        data = own_bytes(kv_chunk_bytes)
        self.backend.put(self._message(client_meta, len(data)), data)

    def contains(self, key: CacheEngineKey) -> bool:
        """See `LMSBackendInterface`."""
        return self.backend.contains(self.key(key))

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """See `LMSBackendInterface`; a chunk of another namespace is None."""
        return self._obj(self.backend.get(self.key(key)))

    def list_keys(self) -> List[CacheEngineKey]:
        """Keys of this namespace, as the engine has them."""
        own = map(self.namespace.own, self.backend.list_keys())
        return [CacheEngineKey.from_string(text) for text in own if text]

    def close(self) -> None:
        """Close the backend, where it is this one's own."""
        if self._owns:
            self.backend.close()

    # -- what goes on to the backend ---------------------------------------------------------------------------------

    def remove(self, key: CacheEngineKey) -> None:
        """See `LMSBackendInterface`."""
        self.backend.remove(self.key(key))

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """See `LMSBackendInterface`."""
        self.backend.remove_many(list(map(self.key, keys)))

    def put_many(
        self, items: Sequence[tuple[ClientMetaMessage, bytearray]], *, context: RequestContext | None = None
    ) -> None:
        """See `LMSBackendInterface`. Keys of `context`, where the backend takes one, are the engine's own here too."""
        named: list[tuple[ClientMetaMessage, bytearray]] = []
        refused: LmsTiersError | None = None
        for client_meta, given in items:
            data = own_bytes(given)
            try:
                named.append((self._message(client_meta, len(data)), data))
            except LmsTiersError as error:
                refused = error
                break
        if named:
            self.backend.put_many(named, **self._context(context))
        if refused is not None:
            raise refused

    def get_many(
        self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None
    ) -> list[LMSMemoryObj | None]:
        """See `get` and `put_many`."""
        return list(map(self._obj, self.backend.get_many(list(map(self.key, keys)), **self._context(context))))

    def contains_prefix(self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None) -> int:
        """See `LMSBackendInterface` and `put_many`."""
        return self.backend.contains_prefix(list(map(self.key, keys)), **self._context(context))

    def contains_many(self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None) -> list[bool]:
        """See `LMSBackendInterface` and `put_many`."""
        return self.backend.contains_many(list(map(self.key, keys)), **self._context(context))

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """See `get`; a chunk of another namespace may stand in `buffer` after None."""
        return self._meta(self.backend.get_into(self.key(key), buffer))

    def get_scattered(
        self, key: CacheEngineKey, buffers: Sequence[Any], *, expected: ChunkMeta | None = None
    ) -> ChunkMeta | None:
        """See `get_into`; where something is expected, that the chunk is of this namespace is part of it."""
        wanted = {} if expected is None else {"expected": expected.within(self._digest)}
        return self._meta(self.backend.get_scattered(self.key(key), buffers, **wanted))

    def get_many_into(
        self, requests: Iterable[tuple[CacheEngineKey, Sequence[Any]]], *,
        expected: Sequence[ChunkMeta | None] | None = None, spoiled: set[int] | None = None,
        context: RequestContext | None = None,
    ) -> list[ChunkMeta | None]:  # fmt: skip
        """See `get_scattered` and `put_many`."""
        named = ((self.key(key), buffers) for key, buffers in requests)
        wanted: dict[str, Any] = dict(self._context(context))
        if expected is not None:
            wanted["expected"] = [None if meta is None else meta.within(self._digest) for meta in expected]
        if spoiled is not None:
            wanted["spoiled"] = spoiled
        found = self.backend.get_many_into(named, **wanted)
        ours = list(map(self._meta, found))
        if spoiled is not None:
            spoiled.update(i for i, meta in enumerate(found) if meta is not None and ours[i] is None)
        return ours

    def put_from(
        self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface, *,
        context: RequestContext | None = None,
    ) -> list[bool]:  # fmt: skip
        """See `put_many`; keys in `source` are the engine's own."""
        named = [self._message(meta, meta.length) for meta in client_metas]
        return self.backend.put_from(named, _Named(source, self.namespace), **self._context(context))

    @property
    def lends(self) -> bool:
        """See `LMSBackendInterface`."""
        return self.backend.lends

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """See `get`."""
        with self.backend.view(self.key(key)) as view:
            meta = None if view is None else self._meta(view.meta)
            yield None if view is None or meta is None else ChunkView(meta, view.buffers)

    def flush(self, timeout: float | None = None) -> None:
        """See `LMSBackendInterface`; of all namespaces."""
        self.backend.flush(timeout)

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk of this namespace, under the engine's own key."""
        for info in self.backend.scan():
            text = self.namespace.own(info.key)
            if text and info.meta.namespace == self._digest:
                yield ChunkInfo(CacheEngineKey.from_string(text), info.meta.within(None), info.stored_bytes)

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """See `LMSBackendInterface`."""
        self.backend.touch(list(map(self.key, keys)))

    def stats(self) -> BackendStats:
        """Those of the backend, of all namespaces."""
        return self.backend.stats()

    @property
    def usable_bytes(self) -> int | None:
        """See `LMSBackendInterface`."""
        return self.backend.usable_bytes

    def reserve_bytes(self, length: int) -> int:
        """See `LMSBackendInterface`."""
        return self.backend.reserve_bytes(length)

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """See `LMSBackendInterface`."""
        return self.backend.stored_bytes(self.key(key))


class _Named(LMSBackendInterface):
    """A source of chunks, as one that has them in a namespace; what it lends, it lends under the engine's own keys."""

    def __init__(self, source: LMSBackendInterface, namespace: Namespace) -> None:
        self._source: Final = source
        self._namespace: Final = namespace

    def _own(self, key: KeyLike) -> OpaqueKey:
        return OpaqueKey(key_text(key)[PREFIX_BYTES:])

    def view(self, key: CacheEngineKey) -> AbstractContextManager[ChunkView | None]:  # type: ignore[override]
        """See `LMSBackendInterface`."""
        return _Renamed(self._source.view(self._own(key)), self._namespace.digest)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """See `LMSBackendInterface`."""
        return self._source.get(self._own(key))

    def contains(self, key: CacheEngineKey) -> bool:
        """See `LMSBackendInterface`."""
        return self._source.contains(self._own(key))

    def list_keys(self) -> List[CacheEngineKey]:
        """See `LMSBackendInterface`."""
        return [self._namespace.key(key_text(key)) for key in self._source.list_keys()]

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> NoReturn:
        """A source takes nothing."""
        raise UnsupportedError(type(self).__name__, "put")

    def close(self) -> None:
        """The source is its caller's."""


class _Renamed:
    """A view of a chunk, as of one in a namespace. No generator: one is made for each chunk that is stored."""

    __slots__ = ("_digest", "_view")

    def __init__(self, view: AbstractContextManager[ChunkView | None], digest: str) -> None:
        self._view = view
        self._digest = digest

    def __enter__(self) -> ChunkView | None:
        view = self._view.__enter__()
        return None if view is None else ChunkView(view.meta.within(self._digest), view.buffers)

    def __exit__(self, *raised: Any) -> bool | None:
        return self._view.__exit__(*raised)
