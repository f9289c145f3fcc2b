"""Host pools and configurations, of SGLang's own classes, over tiny tensors on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, Final

import torch

#: Layouts of host memory whose pages can be read flat.
LAYOUTS: Final = ("layer_first", "page_first", "page_first_direct", "page_head")
HEADS: Final = 2


def config(extra: dict[str, Any], **changes: Any) -> Any:
    """What SGLang tells the storage of a rank; `extra` are ``--hicache-storage-backend-extra-config``."""
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig

    fields = {
        "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1,
        "is_mla_model": False, "enable_storage_metrics": True, "is_page_first_layout": False, "model_name": "llama",
    }  # fmt: skip
    return HiCacheStorageConfig(**{**fields, **changes}, extra_config=extra)


#: Where SGLang's file backend takes its directory from first; before 0.5.22 from nowhere else.
_FILES: Final = "SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR"


@contextmanager
def files_at(extra: Mapping[str, Any]) -> Iterator[None]:
    """A file backend that is made within the block keeps its files at ``file_storage_path``, in every release."""
    place, before = extra.get("file_storage_path"), os.environ.get(_FILES)
    if place is None:
        yield
        return
    os.environ[_FILES] = str(place)
    try:
        yield
    finally:
        os.environ.pop(_FILES)
        if before is not None:
            os.environ[_FILES] = before


def file_backend(place: object) -> Any:
    """SGLang's own file backend at a directory."""
    from sglang.srt.mem_cache.hicache_storage import HiCacheFile

    extra = {"file_storage_path": str(place)}
    with files_at(extra):
        return HiCacheFile(config(extra))


def unified() -> bool:
    """Whether SGLang knows the layout ``page_unified``, whose pages cannot be read flat: since 0.5.23."""
    try:
        from sglang.srt.mem_cache.device_pool_info import KVBufferLayout  # noqa: F401
    except ImportError:
        return False
    return True


def all_registered(backend: Any) -> None:
    """Tell a storage that its pools are all there, as SGLang does since 0.5.23."""
    if hasattr(backend, "on_host_pools_registered"):
        backend.on_host_pools_registered()


def mha(
    layout: str, dtype: torch.dtype, layers: int, page_size: int, pages: int, width: int, heads: int = HEADS
) -> Any:
    """A pool of keys and values."""
    from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

    k, v = (tuple(torch.zeros((page_size, heads, width), dtype=dtype) for _ in range(layers)) for _ in "kv")
    try:
        from sglang.srt.mem_cache.device_pool_info import KVBufferLayout, KVBuffers, MHABufferInfo
    except ImportError:
        device = _device(
            dtype, layers, page_size, head_num=heads, head_dim=width, v_head_dim=width, row_dim=heads * width,
            k_buffer=list(k), v_buffer=list(v), k_data_ptrs=_pointers(k), v_data_ptrs=_pointers(v),
        )  # fmt: skip
        return _older(MHATokenToKVPoolHost, device, layout, page_size, pages)
    info = MHABufferInfo(
        buffers=KVBuffers(
            k=k, v=v, k_data_ptrs=_pointers(k), v_data_ptrs=_pointers(v), layout=next(iter(KVBufferLayout))
        ),
        page_size=page_size, head_num=heads, head_dim=width, v_head_dim=width, dtype=dtype, device=torch.device("cpu"),
    )  # fmt: skip
    return _made(MHATokenToKVPoolHost, info, layout, layers, page_size, pages)


def mla(layout: str, dtype: torch.dtype, layers: int, page_size: int, pages: int, width: int) -> Any:
    """A pool of latents."""
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

    rank, rope = width + width // 2, width // 2
    buffers = tuple(torch.zeros((page_size, 1, rank + rope), dtype=dtype) for _ in range(layers))
    try:
        from sglang.srt.mem_cache.device_pool_info import MLABufferInfo
    except ImportError:
        device = _device(
            dtype, layers, page_size, kv_lora_rank=rank, qk_rope_head_dim=rope, kv_cache_dim=rank + rope,
            kv_buffer=list(buffers), data_ptrs=_pointers(buffers),
        )  # fmt: skip
        return _older(MLATokenToKVPoolHost, device, layout, page_size, pages)
    info = MLABufferInfo(
        buffers=buffers, data_ptrs=_pointers(buffers), layer_indices=tuple(range(layers)), device_layer_num=layers,
        page_size=page_size, kv_lora_rank=rank, qk_rope_head_dim=rope, kv_cache_dim=rank + rope, dtype=dtype,
        device=torch.device("cpu"),
    )  # fmt: skip
    return _made(MLATokenToKVPoolHost, info, layout, layers, page_size, pages, target_layer_num=layers)


def _pointers(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.tensor([tensor.data_ptr() for tensor in tensors], dtype=torch.uint64)


def _made(pool: Any, info: Any, layout: str, layers: int, page_size: int, pages: int, **more: Any) -> Any:
    """A host pool from what is told of device buffers, since SGLang 0.5.23."""
    with _allowance():
        return pool(
            info, 2.0, 0, page_size, layout, pin_memory=False, device_capacity_tokens=page_size, start_layer=0,
            end_layer=layers, host_token_capacity=pages * page_size, **more,
        )  # fmt: skip


def _device(dtype: torch.dtype, layers: int, page_size: int, **fields: Any) -> SimpleNamespace:
    """What a host pool of earlier releases reads of a device pool."""
    return SimpleNamespace(
        device="cpu", dtype=dtype, store_dtype=dtype, size=page_size, layer_num=layers, start_layer=0, end_layer=layers,
        layer_shard_enabled=False, **fields,
    )  # fmt: skip


def _older(pool: Any, device: SimpleNamespace, layout: str, page_size: int, pages: int) -> Any:
    """A host pool that sizes itself by a device pool: one page more than so many times the device's one."""
    with _allowance():
        return pool(device, float(pages - 1), 0, page_size, layout, pin_memory=False)


def _allowance() -> AbstractContextManager[Any]:
    """Of host memory, whatever is free now: SGLang leaves 10 GiB of it alone, and makes no pool where there is less."""
    try:
        from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    except ImportError:
        return nullcontext()
    scope: AbstractContextManager[Any] = host_memory_budget_scope(1 << 36)
    return scope


class States:
    """A pool of states beside the model's own: a page is two tensors, one after another, without addresses."""

    page_size, layout = 1, "page_first"

    def __init__(self, pages: int) -> None:
        self.dtype = torch.float32
        self.parts = [torch.zeros((pages, 5), dtype=torch.bfloat16), torch.zeros((pages, 3), dtype=torch.float32)]

    def get_data_page(self, index: int, flat: bool = True) -> torch.Tensor:
        """The bytes of a page."""
        return torch.cat([part[index].contiguous().view(torch.uint8) for part in self.parts])

    def get_dummy_flat_data_page(self) -> torch.Tensor:
        """Room for one."""
        return torch.zeros(22, dtype=torch.uint8)

    def set_from_flat_data_page(self, index: int, data_page: torch.Tensor) -> None:
        """Write one."""
        self.parts[0][index] = data_page[:10].clone().view(torch.bfloat16)
        self.parts[1][index] = data_page[10:].clone().view(torch.float32)

    def get_page_buffer_meta(self, indices: Any) -> Any:
        """States have no addresses."""
        raise NotImplementedError("states have no addresses")
