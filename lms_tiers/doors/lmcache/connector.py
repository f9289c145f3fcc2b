"""`ConnectorAdapter`: this store as a remote backend of LMCache's in-process mode, for users of `remote_url`.

One connector is made a worker, and one for the scheduler, so its device is one that many open at a time: ``lm:``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Final, List, Optional, TypeVar

from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.storage_backend.connector import ConnectorAdapter as EngineAdapter
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

from lms_tiers.buffers import copy_bytes
from lms_tiers.doors.lent import Lent
from lms_tiers.doors.lmcache.names import layout_meta, object_meta
from lms_tiers.doors.lmcache.place import Place
from lms_tiers.errors import ConfigError, LmsTiersError
from lms_tiers.messages import ChunkMeta, OpaqueKey, described
from lms_tiers.namespace import Namespace

T = TypeVar("T")

#: What the plugin is called in LMCache's configuration, ``lms`` or ``lms.something``.
NAME: Final = "lms"
_WORKERS: Final = 4


class ConnectorAdapter(EngineAdapter):  # type: ignore[misc]  # LMCache is not there when this is checked
    """Makes a `Connector` for ``plugin://lms``, by ``remote_storage_plugin.lms.device`` in the extra config."""

    def __init__(self) -> None:
        super().__init__(f"plugin://{NAME}")

    def can_parse(self, url: str) -> bool:
        """Whether the URL is of this plugin, and not of one whose name begins alike."""
        kind, _, name = url.partition("://")
        return kind == "plugin" and name.partition(".")[0] == NAME

    def create_connector(self, context: Any) -> Connector:
        """A connector for a worker or the scheduler.

        Raises
        ------
        ConfigError, StorageUnavailableError
        """
        plugin = context.plugin_name or context.url.partition("://")[2] or NAME
        extra = context.config.extra_config or {}
        device = extra.get(f"remote_storage_plugin.{plugin}.device")
        if not device:
            raise ConfigError(f"extra_config lacks remote_storage_plugin.{plugin}.device, such as 'lm:host:65432'.")
        revision = extra.get(f"remote_storage_plugin.{plugin}.revision", "")
        return Connector(str(device), str(revision), context.local_cpu_backend, context.config, context.metadata)


class Connector(RemoteConnector):  # type: ignore[misc]
    """Chunks of one worker. Transfers run in threads of its own; memory of LMCache's is held until they are over."""

    def __init__(self, device: str, revision: str, memory: Any, config: Any, metadata: Any) -> None:
        # The scheduler's memory is a stand-in without metadata; the context always has them.
        super().__init__(config, metadata)
        self._memory: Final = memory
        self._namespace: Final = Namespace(
            model=metadata.model_name, revision=revision, dtype=str(metadata.kv_dtype).removeprefix("torch."),
            layout=f"{self.meta_fmt.name}{[tuple(shape) for shape in self.meta_shapes]}", engine="lmcache",
        )  # fmt: skip
        self._place: Final = Place(device, lambda texts: None, lambda: None)
        self._pool: Final = ThreadPoolExecutor(_WORKERS, "lms-lmcache-connector")

    def _key(self, key: Any) -> OpaqueKey:
        return self._namespace.key(key.to_string())

    def _run(self, call: Callable[..., T], *given: Any) -> Future[T]:
        return self._pool.submit(call, *given)

    # -- chunks ------------------------------------------------------------------------------------------------------

    async def exists(self, key: Any) -> bool:
        """Whether the chunk is there."""
        return await asyncio.wrap_future(self._run(self.exists_sync, key))

    def exists_sync(self, key: Any) -> bool:
        """See `exists`."""
        return self._place.store.contains(self._key(key))

    def support_batched_contains(self) -> bool:
        """One round trip for many keys."""
        return True

    def batched_contains(self, keys: Sequence[Any]) -> int:
        """How many of the leading keys are there."""
        return self._place.store.contains_prefix([self._key(key) for key in keys])

    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Any], pin: bool = False) -> int:
        """See `batched_contains`; nothing is pinned, as no call gives a pin back."""
        return await asyncio.wrap_future(self._run(self.batched_contains, keys))

    async def put(self, key: Any, memory_obj: Any) -> None:
        """Store a chunk. Its memory is this connector's until that is done, whatever becomes of the caller.

        Raises
        ------
        LmsTiersError
        """
        memory_obj.ref_count_up()
        try:
            future = self._run(self._put, self._key(key), memory_obj)
        except BaseException:
            memory_obj.ref_count_down()
            raise
        future.add_done_callback(lambda _: memory_obj.ref_count_down())
        await asyncio.wrap_future(future)

    def _put(self, key: OpaqueKey, memory_obj: Any) -> None:
        with memoryview(memory_obj.byte_array) as raw, raw.cast("B") as view:
            meta = object_meta(key, memory_obj, len(view))
            self._place.store.put_from([meta.message(key)], Lent({key.to_string(): (meta, [view])}))

    async def get(self, key: Any) -> Optional[Any]:
        """A chunk in memory of LMCache's, or None where it is not there, or is not what is looked for."""
        future = self._run(self._get, self._key(key))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # The thread goes on: what it still allocates has no other owner.
            future.add_done_callback(_given_up)
            raise

    def _get(self, key: OpaqueKey) -> Any | None:
        found = self._place.store.get(key)
        if found is None:
            return None
        meta = ChunkMeta.of_obj(key, found)
        if meta.namespace != self._namespace.digest:
            return None
        fmt = MemoryFormat(found.fmt.value)
        shapes, dtypes = [found.shape], [found.dtype]
        if described(found)[0] is None:  # several groups: their shapes are those of a full chunk
            shapes, dtypes, fmt = self.meta_shapes, self.meta_dtypes, self.meta_fmt
            if layout_meta(meta.length, fmt.value, shapes, dtypes).within(meta.namespace) != meta:
                return None
        several = len(shapes) > 1
        memory_obj = self._memory.allocate(shapes if several else shapes[0], dtypes if several else dtypes[0], fmt)
        if memory_obj is None:
            return None
        try:
            with memoryview(memory_obj.byte_array) as raw, raw.cast("B") as view:
                if len(view) == found.length:
                    copy_bytes(view, memoryview(found.data).cast("B"))
                    return memory_obj
        except BaseException:
            memory_obj.ref_count_down()
            raise
        memory_obj.ref_count_down()
        return None

    def remove_sync(self, key: Any) -> bool:
        """Forget a chunk; whether that is so."""
        try:
            self._place.store.remove(self._key(key))
        except LmsTiersError:
            return False
        return True

    async def list(self) -> List[str]:
        """Keys of this worker's namespace, as LMCache has them."""
        keys = await asyncio.wrap_future(self._run(self._place.store.list_keys))
        return [text for key in keys if (text := self._namespace.own(key)) is not None]

    # -- health and end ----------------------------------------------------------------------------------------------

    def support_ping(self) -> bool:
        """It can be asked."""
        return True

    async def ping(self) -> int:
        """0 where the store works."""
        healthy, _ = await asyncio.wrap_future(self._run(self._place.health))
        return 0 if healthy else 1

    async def close(self) -> None:
        """Wait for transfers that run, and close the store."""
        await asyncio.get_running_loop().run_in_executor(None, self._end)

    def _end(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._place.close()


def _given_up(future: Future[Any]) -> None:
    with contextlib.suppress(CancelledError, Exception):
        memory_obj = future.result()
        if memory_obj is not None:
            memory_obj.ref_count_down()
