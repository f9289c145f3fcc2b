"""As much of SGLang as the door touches, made for tests that run without it: names and meanings, none of its code.

Where `make doors` runs the same tests, SGLang itself is there and none of this is used.
"""

from __future__ import annotations

import enum
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from tests.doors.stand_in import standing_in


class PoolName(enum.StrEnum):
    KV = "kv"
    MAMBA = "mamba"
    SWA = "swa"
    INDEXER = "indexer"


class PoolHitPolicy(enum.StrEnum):
    ALL_PAGES = "all_pages"
    TRAILING_PAGES = "trailing_pages"
    BLOCK_GROUPS = "block_groups"


@dataclass
class PoolTransfer:
    name: Any
    host_indices: Any = None
    device_indices: Any = None
    keys: list[str] | None = None
    hit_policy: Any = PoolHitPolicy.ALL_PAGES


@dataclass
class PoolTransferResult:
    kv_hit_pages: int
    extra_pool_hit_pages: dict[str, int]
    restorable_prefix_pages: list[int] | None = None


@dataclass
class HiCacheStorageExtraInfo:
    prefix_keys: list[str] | None = None
    extra_info: dict[str, Any] | None = None


class HiCacheStorage:
    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        self.mem_pool_host = mem_pool_host

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        self.__dict__.setdefault("registered_pools", {})[host_pool_name] = host_pool

    def on_host_pools_registered(self) -> None:
        """Nothing to finish."""


@dataclass
class HiCacheStorageConfig:
    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    attn_cp_rank: int
    attn_cp_size: int
    is_mla_model: bool
    enable_storage_metrics: bool
    is_page_first_layout: bool
    model_name: str | None
    dp_rank: int = 0
    extra_config: dict[str, Any] | None = None


@dataclass
class StorageMetrics:
    prefetch_pgs: list[int] = field(default_factory=list)
    backup_pgs: list[int] = field(default_factory=list)
    prefetch_bandwidth: list[float] = field(default_factory=list)
    backup_bandwidth: list[float] = field(default_factory=list)


class Pool:
    """Pages of several layers, keys and values or one latent, laid out as one of SGLang's layouts has them."""

    heads = 2

    def __init__(
        self, layout: str, dtype: torch.dtype, layers: int, page_size: int, pages: int, parts: int, width: int = 8
    ) -> None:
        self.width = width
        self.layout, self.dtype, self.layer_num, self.page_size, self.page_num = layout, dtype, layers, page_size, pages
        self.parts, self.size = parts, pages * page_size
        self.head_num, self.head_dim = self.heads, self.width
        cell = (self.heads, self.width)
        self.kv_buffer = torch.zeros({
            "layer_first": (parts, layers, self.size, *cell),
            "page_first": (parts, self.size, layers, *cell),
            "page_first_direct": (parts, pages, layers, page_size, *cell),
            "page_head": (parts, pages, self.heads, page_size, layers, self.width),
            "page_unified": (pages, layers, parts, page_size, *cell),
        }[layout], dtype=dtype)  # fmt: skip
        if layout == "page_unified":
            self.page_unified_layout = SimpleNamespace(bytes_per_page=self.kv_buffer[0].numel() * dtype.itemsize)

    def _view(self, index: int) -> torch.Tensor:
        if self.layout == "layer_first":
            return self.kv_buffer[:, :, index : index + self.page_size]
        if self.layout == "page_first":
            return self.kv_buffer[:, index : index + self.page_size]
        if self.layout == "page_unified":
            raise ValueError("there are no flat pages")
        return self.kv_buffer[:, index // self.page_size]

    def get_data_page(self, index: int, flat: bool = True) -> torch.Tensor:
        return self._view(index).flatten() if flat else self._view(index)

    def get_dummy_flat_data_page(self) -> torch.Tensor:
        return torch.zeros(self.kv_buffer.numel() // self.page_num, dtype=self.dtype)

    def set_from_flat_data_page(self, index: int, data_page: torch.Tensor) -> None:
        view = self._view(index)
        view.copy_(data_page.reshape(view.shape))

    def get_page_buffer_meta(self, indices: torch.Tensor) -> tuple[list[int], list[int]]:
        found = []
        for index in indices[:: self.page_size].tolist():
            view = self._view(index)
            if self.layout == "layer_first":  # a layer's keys, then its values
                found += [view[part, layer] for layer in range(self.layer_num) for part in range(self.parts)]
            else:
                found += [view[part] for part in range(self.parts)]
        return [piece.data_ptr() for piece in found], [piece.numel() * piece.element_size() for piece in found]


def mha(layout: str, dtype: torch.dtype, layers: int, page_size: int, pages: int, width: int = 8) -> Pool:
    return Pool(layout, dtype, layers, page_size, pages, 2, width)


def mla(layout: str, dtype: torch.dtype, layers: int, page_size: int, pages: int, width: int = 8) -> Pool:
    return Pool(layout, dtype, layers, page_size, pages, 1, width)


MODULES: dict[str, dict[str, Any]] = {
    "sglang.srt.mem_cache.hicache_storage": {
        "HiCacheStorage": HiCacheStorage, "HiCacheStorageConfig": HiCacheStorageConfig, "PoolName": PoolName,
        "PoolHitPolicy": PoolHitPolicy, "PoolTransfer": PoolTransfer, "PoolTransferResult": PoolTransferResult,
        "HiCacheStorageExtraInfo": HiCacheStorageExtraInfo,
    },
    "sglang.srt.observability.metrics_collector": {"StorageMetrics": StorageMetrics},
}  # fmt: skip


def installed() -> AbstractContextManager[None]:
    """See `standing_in`."""
    return standing_in("sglang", MODULES)
