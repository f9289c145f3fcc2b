"""A storage backend and the host pool above it, called as SGLang's controller calls them.

Chunks are numbers: page `n` holds `content(n)` in the flat order of its layout. Slots are pages of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from lms_conformance.adapters.driven import CANARY, Driven, content, told

#: The ways by which the controller moves pages: by indices (`interface_v1`), as flat tensors, and by pools.
WAYS: Final = ("v1", "flat", "v2")


def name(key: int) -> str:
    """A page's key: a hash in hexadecimal, as SGLang makes them."""
    return f"{key:064x}"


def flat(page: torch.Tensor) -> bytes:
    """A page's bytes."""
    return page.contiguous().view(torch.uint8).numpy().tobytes()


class Drive(Driven):
    """One backend over one pool.

    Parameters
    ----------
    backend : HiCacheStorage
    pool : HostKVCache
        Every page holds canaries.
    way : {"v1", "flat", "v2"}
    pages : int
        Of the pool.
    """

    def __init__(self, backend: Any, pool: Any, way: str, pages: int) -> None:
        self.backend = backend
        self.pool = pool
        self.way = way
        self.pages = pages
        self.nbytes = len(flat(pool.get_dummy_flat_data_page()))
        self.wipe()

    # -- host memory -------------------------------------------------------------------------------------------------

    def indices(self, slots: Sequence[int]) -> torch.Tensor:
        """Of each token of these pages."""
        size = self.pool.page_size
        return torch.tensor([slot * size + i for slot in slots for i in range(size)], dtype=torch.int64)

    def slot(self, slot: int) -> bytes:
        """What a page of the pool holds."""
        return flat(self.pool.get_data_page(slot * self.pool.page_size))

    def fill(self, slot: int, data: bytes) -> None:
        """Write a page of the pool."""
        like = self.pool.get_dummy_flat_data_page()
        page = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(like.dtype)
        self.pool.set_from_flat_data_page(slot * self.pool.page_size, page)

    def holds(self, slot: int, key: int) -> bool:
        """Whether a page of the pool is chunk `key`."""
        return self.slot(slot) == content(key, self.nbytes)

    def wipe(self) -> None:
        """Canaries in every page."""
        if hasattr(self.pool, "kv_buffer"):
            self.pool.kv_buffer.view(torch.uint8).fill_(CANARY)

    def touched(self, *but: int) -> list[int]:
        """Pages that hold no canaries, these left out."""
        clean = bytes([CANARY]) * self.nbytes
        return [slot for slot in range(self.pages) if slot not in but and self.slot(slot) != clean]

    # -- as the threads `backup` and `prefetch` do -------------------------------------------------------------------

    @told
    def save(self, keys: Sequence[int], slots: Sequence[int] | None = None) -> list[bool]:
        """Fill pages, store them, and leave canaries; what it said of each, or of all where it says one thing."""
        slots = list(range(len(keys))) if slots is None else slots
        for key, slot in zip(keys, slots, strict=True):
            self.fill(slot, content(key, self.nbytes))
        saved = self.put(keys, slots)
        self.wipe()
        return saved

    def put(self, keys: Sequence[int], slots: Sequence[int]) -> list[bool]:
        """Store pages as they are."""
        names = [name(key) for key in keys]
        if self.way == "v1":
            return [bool(one) for one in self.backend.batch_set_v1(names, self.indices(slots))]
        if self.way == "v2":
            transfer = self.transfer("kv", names, self.indices(slots))
            return [bool(one) for one in self.backend.batch_set_v2([transfer])[transfer.name]]
        pages = [self.pool.get_data_page(slot * self.pool.page_size) for slot in slots]
        return [bool(self.backend.batch_set(names, pages))] * len(keys)

    @told
    def load(self, keys: Sequence[int], slots: Sequence[int]) -> list[bool]:
        """Load pages into slots; which of them came."""
        names = [name(key) for key in keys]
        if self.way == "v1":
            return [bool(one) for one in self.backend.batch_get_v1(names, self.indices(slots))]
        if self.way == "v2":
            transfer = self.transfer("kv", names, self.indices(slots))
            return [bool(one) for one in self.backend.batch_get_v2([transfer])[transfer.name]]
        found = self.backend.batch_get(names, [self.pool.get_dummy_flat_data_page() for _ in names])
        if found is None:
            return [False] * len(keys)
        for slot, page in zip(slots, found, strict=True):
            if page is not None:
                self.pool.set_from_flat_data_page(slot * self.pool.page_size, page)
        return [page is not None for page in found]

    def transfer(self, pool: str, names: list[str], indices: Any = None, trailing: int = 0) -> Any:
        """A transfer of a pool; with `trailing`, hits of its last so many pages."""
        import sglang.srt.mem_cache.hicache_storage as module

        kinds = module.PoolHitPolicy
        policy = kinds.TRAILING_PAGES if trailing else kinds.ALL_PAGES
        keys = names[:trailing] if trailing else names
        return module.PoolTransfer(name=module.PoolName(pool), keys=keys, host_indices=indices, hit_policy=policy)

    # -- as the hit query does ---------------------------------------------------------------------------------------

    @told
    def exist(self, keys: Sequence[int]) -> list[bool]:
        """Which pages are said to be held, one by one."""
        return [bool(self.backend.exists(name(key))) for key in keys]

    @told
    def leading(self, keys: Sequence[int]) -> int:
        """How many of the leading pages are said to be held."""
        names = [name(key) for key in keys]
        if self.way == "v2":
            return int(self.backend.batch_exists_v2(names).kv_hit_pages)
        return int(self.backend.batch_exists(names))

    @told
    def clear(self) -> Any:
        """Remove everything of this run."""
        return self.backend.clear()

    def close(self) -> None:
        """As the controller detaches it."""
        if hasattr(self.backend, "close"):
            self.backend.close()
