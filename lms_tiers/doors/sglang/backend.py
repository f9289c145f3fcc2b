"""`HiCache`: what SGLang's threads call. They may be kept waiting, and are; nothing is raised into them.

What is expected of each method is SGLang's own (`HiCacheStorage`); pages, pools and the store are in pool.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from lms_tiers.doors.sglang import shim
from lms_tiers.doors.sglang.calls import Gate, answering
from lms_tiers.doors.sglang.fold import Beside, fold
from lms_tiers.doors.sglang.identity import dtype_of
from lms_tiers.doors.sglang.moved import Moved
from lms_tiers.doors.sglang.opening import device_of, opened
from lms_tiers.doors.sglang.options import options_of
from lms_tiers.doors.sglang.pages import bytes_of
from lms_tiers.doors.sglang.pool import PoolStore
from lms_tiers.errors import ConfigError

_log = logging.getLogger(__name__)


def _none(keys: Sequence[str], *_: Any, **__: Any) -> list[bool]:
    return [False] * len(keys)


def _no_tensors(keys: Sequence[str], *_: Any, **__: Any) -> list[Any]:
    return [None] * len(keys)


def _no_transfers(transfers: Sequence[Any], *_: Any, **__: Any) -> dict[Any, list[bool]]:
    return {transfer.name: [False] * len(transfer.keys or ()) for transfer in transfers}


class HiCache(shim.HiCacheStorage):  # type: ignore[misc]  # SGLang is not there when types are checked
    """A store of this project's as SGLang's storage below its host memory, of one rank.

    Parameters
    ----------
    storage_config : HiCacheStorageConfig
        Its `extra_config` holds the options of `DoorOptions` beside SGLang's own.
    kwargs : dict, optional
        SGLang gives one, and has nothing in it.

    Raises
    ------
    ConfigError
        An option that is not known or not good; ranks that would open one place, or share nothing where they must.
    StorageUnavailableError, StorageLockedError, FormatError, PluginError
        The store cannot be opened.
    """

    def __init__(self, storage_config: Any, kwargs: dict[str, Any] | None = None) -> None:
        self._config: Final = storage_config
        self._options: Final = options_of(storage_config.extra_config)
        device = device_of(self._options.device, storage_config)
        self._gate: Final = Gate()
        self._moved: Final = Moved()
        self._pools: Final[dict[str, PoolStore]] = {}
        self._store: Final = opened(device)
        self._closed = False
        _log.info("SGLang's cache goes on in %s", device)

    # -- pools -------------------------------------------------------------------------------------------------------

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The model's own pool."""
        super().register_mem_pool_host(mem_pool_host)
        self._register(mem_pool_host, shim.KV)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """A pool of a hybrid model; they may come after transfers have begun."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        self._register(host_pool, shim.name_of(host_pool_name))

    def _register(self, pool: Any, name: str) -> None:
        known = self._pools.get(name)
        if known is not None and known.pool is pool:
            return
        dtype = self._options.kv_cache_dtype or shim.server_dtype()
        if not dtype and dtype_of(pool) == "uint8":
            # Two kinds of 8-bit floats would share a namespace, and read each other's bytes.
            raise ConfigError(
                f"pool {name!r} holds bytes, and the server does not say of which dtype: set kv_cache_dtype here."
            )
        found = PoolStore(self._store, self._config, pool, name, self._options, dtype)
        self._pools[name] = found
        _log.info(
            "pool %s: pages of %d bytes, %s, namespace %s", name, found.pages.nbytes,
            "where they lie" if found.pages.straight else "by way of a copy", found.namespace.digest,
        )  # fmt: skip

    # -- v1: the model's own pool ------------------------------------------------------------------------------------

    @answering(_none)
    def batch_get_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Load pages to where `host_indices` say; which of them are there."""
        return self._load(shim.KV, keys, host_indices, _position(extra_info))

    @answering(_none)
    def batch_set_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Store the pages that are not held yet; which of all are."""
        return self._save(shim.KV, keys, host_indices, _position(extra_info))

    @answering(lambda *_, **__: 0)
    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """How many of the leading keys are held."""
        return self._pools[shim.KV].leading(keys)

    @answering(lambda *_, **__: False)
    def exists(self, key: str) -> bool:
        """Whether a key is held."""
        return self._pools[shim.KV].held([key])[0]

    # -- v2: any pool ------------------------------------------------------------------------------------------------

    @answering(lambda *_, **__: shim.result(0, {}, []))
    def batch_exists_v2(self, keys: list[str], pool_transfers: Any = None, extra_info: Any = None) -> Any:
        """How far a prefix can be restored in all pools that it needs."""
        held = self._pools[shim.KV].held(keys)
        beside = []
        for transfer in pool_transfers or ():
            if transfer.hit_policy == shim.BLOCK_GROUPS:
                continue  # it has a verdict of its own, and is never in the way of others
            pool = self._pools.get(shim.name_of(transfer.name))
            window = None
            if transfer.hit_policy == shim.TRAILING_PAGES:
                window = max(1, len(transfer.keys or ()))
            elif transfer.hit_policy != shim.ALL_PAGES:
                raise ValueError(f"hits of pool {transfer.name} by {transfer.hit_policy!r} are not known here")
            there = [False] * len(keys) if pool is None or not keys else pool.held(keys)
            beside.append(Beside(transfer.name, there, window))
        return shim.result(*fold(shim.KV, held, beside))

    @answering(_no_transfers)
    def batch_get_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Load the pages of each transfer."""
        return {t.name: self._transfer(self._load, t, extra_info) for t in transfers}

    @answering(_no_transfers)
    def batch_set_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Store the pages of each transfer that are not held yet."""
        return {t.name: self._transfer(self._save, t, extra_info) for t in transfers}

    def _transfer(self, move: Callable[..., list[bool]], transfer: Any, extra_info: Any) -> list[bool]:
        keys = list(transfer.keys or ())
        try:
            return move(shim.name_of(transfer.name), keys, transfer.host_indices, _position(extra_info))
        except Exception:  # one pool's trouble is not another's
            _log.exception("pages of pool %s were not moved", transfer.name)
            return [False] * len(keys)

    # -- moving ------------------------------------------------------------------------------------------------------

    def _load(self, name: str, keys: Sequence[str], indices: Any, position: int | None) -> list[bool]:
        return self._move(True, name, keys, indices, position)

    def _save(self, name: str, keys: Sequence[str], indices: Any, position: int | None) -> list[bool]:
        return self._move(False, name, keys, indices, position)

    def _move(self, load: bool, name: str, keys: Sequence[str], indices: Any, position: int | None) -> list[bool]:
        pool = self._pools.get(name)
        if pool is None or not pool.pages.fits(indices, len(keys)):
            _log.error("pool %s, %d pages: %s", name, len(keys), "it is not registered" if pool is None else
                       "there are indices of another number of pages")  # fmt: skip
            return [False] * len(keys)
        if not keys:
            return []
        began = time.monotonic()
        there = (pool.load if load else pool.save)(keys, indices, position)
        if self._config.enable_storage_metrics:
            self._moved.add(load, sum(there), sum(there) * pool.pages.nbytes, time.monotonic() - began)
        return there

    # -- flat pages in tensors of the caller's -----------------------------------------------------------------------

    @answering(lambda *_, **__: None)
    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Read a flat page into a tensor, and answer it; None where it is absent."""
        return self._get([key], [target_location])[0]

    @answering(_no_tensors)
    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> list[Any]:
        """Read flat pages into tensors; None for each that is absent."""
        return self._get(keys, list(target_locations or [None] * len(keys)))

    def _get(self, keys: Sequence[str], targets: list[Any]) -> list[Any]:
        pool = self._pools[shim.KV]
        for i, target in enumerate(targets):
            if target is None:
                targets[i] = pool.pool.get_dummy_flat_data_page()
        # A tensor in pieces, or of another length, gets nothing.
        straight = [t.is_contiguous() and t.numel() * t.element_size() == pool.pages.nbytes for t in targets]
        wanted = [i for i, right in enumerate(straight) if right]
        found = pool.read([keys[i] for i in wanted], [[bytes_of(targets[i])] for i in wanted])
        answers: list[Any] = [None] * len(keys)
        for i, there in zip(wanted, found, strict=True):
            answers[i] = targets[i] if there else None
        return answers

    @answering(lambda *_, **__: False)
    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Store a flat page."""
        return value is not None and all(self._pools[shim.KV].write([key], iter([bytes_of(value)])))

    @answering(lambda *_, **__: False)
    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """Store flat pages; whether all are held."""
        return values is not None and all(self._pools[shim.KV].write(keys, map(bytes_of, values)))

    # -- the whole ---------------------------------------------------------------------------------------------------

    @answering(lambda: False)
    def clear(self) -> bool:
        """Remove the pages of this model, as it runs here, from the store; others' stay. Whether that worked."""
        for name, pool in self._pools.items():
            _log.info("removed %d pages of pool %s", pool.clear(), name)
        return True

    @answering(lambda: None)
    def get_stats(self) -> Any:
        """What was moved since the last call, as SGLang's collector takes it; None where metrics are off."""
        return self._moved.into(shim.storage_metrics()) if self._config.enable_storage_metrics else None

    def close(self) -> None:
        """Wait for the calls inside, then flush and close the store; every call after is a miss.

        Raises
        ------
        DeadlineExceededError
            A transfer is inside the store and does not come back: the host memory is not to be given away yet.
        """
        self._gate.shut(self._options.close_timeout)
        if not self._closed:
            self._closed = True
            self._store.close()


def _position(extra_info: Any) -> int | None:
    """Where a batch stands in its chain, where SGLang passes the chain on."""
    prefix = getattr(extra_info, "prefix_keys", None)
    return None if prefix is None else len(prefix)
