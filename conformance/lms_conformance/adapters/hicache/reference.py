"""A storage backend of HiCache that keeps every property, as plainly as it can be written. Needs SGLang."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, PoolName, PoolTransferResult

from lms_conformance.adapters.hicache.drive import flat
from lms_conformance.adapters.shelf import Shelf
from lms_tiers.doors.sglang.fold import Beside, fold, leading


class Reference(HiCacheStorage):  # type: ignore[misc]  # SGLang is not there when types are checked
    """Pages in files, each pool's on a shelf of its own.

    Parameters
    ----------
    storage_config : HiCacheStorageConfig
        Its option `place` is the directory.
    """

    def __init__(self, storage_config: Any, kwargs: dict[str, Any] | None = None) -> None:
        self.config = storage_config
        self.place = storage_config.extra_config["place"]
        self.pools: dict[str, Any] = {}
        self.shelves: dict[str, Shelf] = {}
        self.closed = False
        self.inside = threading.Lock()

    # -- whose -------------------------------------------------------------------------------------------------------

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        self.register_mem_host_pool_v2(mem_pool_host, PoolName.KV)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        self.pools[str(host_pool_name.value)] = host_pool
        self.shelves[str(host_pool_name.value)] = Shelf(self.place, self.whose(host_pool, host_pool_name))

    def whose(self, pool: Any, name: Any) -> object:
        """What a page's bytes depend on, and its key does not tell."""
        return {"pool": name.value, **self.model(), **self.ranks(), **self.shape(pool), **self.kind(pool)}

    def model(self) -> dict[str, object]:
        return {"model": self.config.model_name, "latent": self.config.is_mla_model}

    def ranks(self) -> dict[str, object]:
        names = ("tp_rank", "tp_size", "pp_rank", "pp_size", "attn_cp_rank", "attn_cp_size")
        return {name: getattr(self.config, name) for name in names}

    def shape(self, pool: Any) -> dict[str, object]:
        sizes = pool.page_size, getattr(pool, "layer_num", 0), getattr(pool, "head_dim", 0)
        return {"page": sizes, "nbytes": len(flat(pool.get_dummy_flat_data_page()))}

    def kind(self, pool: Any) -> dict[str, object]:
        return {"dtype": str(pool.dtype), "layout": pool.layout}

    # -- pages -------------------------------------------------------------------------------------------------------

    def keep(self, pool: str, key: str, page: torch.Tensor) -> bool:
        """Store one page."""
        shelf = self.shelves[pool]
        if self.closed:
            return False
        try:
            if not shelf.has(key):
                shelf.put(key, flat(page))
        except OSError:
            return False
        return True

    def read(self, pool: str, key: str) -> torch.Tensor | None:
        """One page, flat."""
        like = self.pools[pool].get_dummy_flat_data_page()
        found = None if self.closed else self.shelves[pool].get(key)
        if found is None or len(found) != len(flat(like)):
            return None
        return torch.frombuffer(bytearray(found), dtype=torch.uint8).view(like.dtype)

    def fill(self, pool: str, slot: int, page: torch.Tensor) -> None:
        """Write a page into host memory."""
        self.pools[pool].set_from_flat_data_page(slot, page)

    def held(self, pool: str, key: str) -> bool:
        return not self.closed and pool in self.shelves and self.shelves[pool].has(key)

    def _save(self, pool: str, keys: Sequence[str], slots: Sequence[int]) -> list[bool]:
        with self.inside:
            return [
                self.keep(pool, key, self.pools[pool].get_data_page(slot))
                for key, slot in zip(keys, slots, strict=True)
            ]

    def _load(self, pool: str, keys: Sequence[str], slots: Sequence[int]) -> list[bool]:
        with self.inside:
            return [self.one(pool, key, slot) for key, slot in zip(keys, slots, strict=True)]

    def one(self, pool: str, key: str, slot: int) -> bool:
        """Load one page."""
        page = self.read(pool, key)
        if page is not None:
            self.fill(pool, slot, page)
        return page is not None

    # -- SGLang's ----------------------------------------------------------------------------------------------------

    def batch_get_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        return self._load("kv", keys, host_indices[:: self.pools["kv"].page_size].tolist())

    def batch_set_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        return self._save("kv", keys, host_indices[:: self.pools["kv"].page_size].tolist())

    def batch_exists_v2(self, keys: list[str], pool_transfers: Any = None, extra_info: Any = None) -> Any:
        beside = []
        for transfer in pool_transfers or ():
            window = max(1, len(transfer.keys or ())) if transfer.hit_policy.value == "trailing_pages" else None
            beside.append(Beside(transfer.name, [self.held(transfer.name.value, key) for key in keys], window))
        return PoolTransferResult(*self.fold([self.held("kv", key) for key in keys], beside))

    def fold(self, held: list[bool], beside: list[Beside]) -> Any:
        return fold(PoolName.KV, held, beside)

    def batch_get_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        return {t.name: self.moved(self._load, t) for t in transfers}

    def batch_set_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        return {t.name: self.moved(self._save, t) for t in transfers}

    def moved(self, move: Any, transfer: Any) -> list[bool]:
        """The pages of one transfer."""
        name = transfer.name.value
        size = self.pools[name].page_size
        if transfer.host_indices is None or transfer.host_indices.numel() != size * len(transfer.keys):
            return [False] * len(transfer.keys)
        done: list[bool] = move(name, transfer.keys, transfer.host_indices[::size].tolist())
        return done

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        page = self.read("kv", key)
        if page is None or target_location is None:
            return page
        return target_location.copy_(page)

    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> list[Any]:
        targets = target_locations or [None] * len(keys)
        return [self.get(key, target) for key, target in zip(keys, targets, strict=True)]

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        return self.keep("kv", key, value)

    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        done = [self.set(key, value) for key, value in zip(keys, values, strict=True)]
        return all(done)

    def exists(self, key: str) -> bool:
        return self.held("kv", key)

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        return leading([self.held("kv", key) for key in keys])

    def clear(self) -> bool:
        for shelf in self.shelves.values():
            shelf.clear()
        return True

    def close(self) -> None:
        """Wait for the calls inside."""
        with self.inside:
            self.closed = True
