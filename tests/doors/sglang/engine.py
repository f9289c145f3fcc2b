"""Host pools and configurations of SGLang's own classes; imported where SGLang is there only."""

from __future__ import annotations

from typing import Any

import torch


def mha(layout: str, dtype: torch.dtype, layers: int, page_size: int, pages: int) -> Any:
    from sglang.srt.mem_cache.device_pool_info import KVBufferLayout, KVBuffers, MHABufferInfo
    from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

    heads, width = 2, 8
    k, v = (tuple(torch.zeros((page_size, heads, width), dtype=dtype) for _ in range(layers)) for _ in "kv")
    pointers = [torch.tensor([t.data_ptr() for t in tensors], dtype=torch.uint64) for tensors in (k, v)]
    info = MHABufferInfo(
        buffers=KVBuffers(k=k, v=v, k_data_ptrs=pointers[0], v_data_ptrs=pointers[1], layout=next(iter(KVBufferLayout))),
        page_size=page_size, head_num=heads, head_dim=width, v_head_dim=width, dtype=dtype, device=torch.device("cpu"),
    )  # fmt: skip
    with host_memory_budget_scope(1 << 32):
        return MHATokenToKVPoolHost(
            info, 2.0, 0, page_size, layout, pin_memory=False, device_capacity_tokens=page_size, start_layer=0,
            end_layer=layers, host_token_capacity=pages * page_size,
        )  # fmt: skip


def mla(layout: str, dtype: torch.dtype, layers: int, page_size: int, pages: int) -> Any:
    from sglang.srt.mem_cache.device_pool_info import MLABufferInfo
    from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

    rank, rope = 12, 4
    buffers = tuple(torch.zeros((page_size, 1, rank + rope), dtype=dtype) for _ in range(layers))
    info = MLABufferInfo(
        buffers=buffers, data_ptrs=torch.tensor([t.data_ptr() for t in buffers], dtype=torch.uint64),
        layer_indices=tuple(range(layers)), device_layer_num=layers, page_size=page_size, kv_lora_rank=rank,
        qk_rope_head_dim=rope, kv_cache_dim=rank + rope, dtype=dtype, device=torch.device("cpu"),
    )  # fmt: skip
    with host_memory_budget_scope(1 << 32):
        return MLATokenToKVPoolHost(
            info, 2.0, 0, page_size, layout, pin_memory=False, device_capacity_tokens=page_size, start_layer=0,
            end_layer=layers, target_layer_num=layers, host_token_capacity=pages * page_size,
        )  # fmt: skip
