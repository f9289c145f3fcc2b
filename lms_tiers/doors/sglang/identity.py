"""Which pages are good for an engine: one namespace for each host pool. SGLang's keys are hashes of tokens, no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lms_tiers.doors.sglang.pages import Pages
from lms_tiers.messages import DTYPE_NAMES, ChunkMeta, MemoryFormat
from lms_tiers.namespace import Namespace, Value

#: Sizes of a pool that its bytes depend on, where it has them.
_SIZES: Final = (
    "layer_num", "start_layer", "end_layer", "head_num", "head_group_num", "head_dim", "v_head_dim", "kv_lora_rank",
    "qk_rope_head_dim", "kv_cache_dim", "num_mamba_layers", "indexer_page_stride_size", "item_bytes",
)  # fmt: skip
#: The pool that is cut over tensor-parallel ranks even where the model's cache is the same on all of them.
_CUT: Final = "mamba"


def namespace(
    config: Any, pool: Any, pages: Pages, name: str, *,
    revision: str = "", dtype: str = "", free: Mapping[str, Value] | None = None,
) -> Namespace:  # fmt: skip
    """The namespace of the pages of one pool.

    Parameters
    ----------
    config : HiCacheStorageConfig
    pool : HostKVCache
    pages : Pages
        Of that pool.
    name : str
        The pool's; `kv` is the model's own.
    revision : str
        Of the model; the engine does not tell it.
    dtype : str
        Of the elements, where the pool's own is bytes.
    free : mapping
        Whatever else the bytes depend on.

    Notes
    -----
    A page of an MLA model is the same on every tensor-parallel rank, whatever their number.
    """
    same = bool(config.is_mla_model) and name != _CUT
    sizes = {size: getattr(pool, size, None) for size in _SIZES}
    facts: dict[str, Value] = {f"pool.{size}": value for size, value in sizes.items() if isinstance(value, int)}
    facts |= {
        "pool": name, "pool.class": type(pool).__name__, "page": pages.page_size, "page.bytes": pages.nbytes,
        "server.dtype": dtype, "cp.size": config.attn_cp_size, "cp.rank": config.attn_cp_rank,
        "dcp.size": getattr(config, "dcp_size", 1), "dcp.rank": getattr(config, "dcp_rank", 0),
    }  # fmt: skip
    facts |= {f"free.{key}": value for key, value in (free or {}).items()}
    return Namespace(
        model=config.model_name or "", revision=revision, dtype=dtype_of(pool), layout=str(getattr(pool, "layout", "")),
        tensor_size=1 if same else config.tp_size, tensor_rank=0 if same else config.tp_rank,
        pipeline_size=config.pp_size, pipeline_rank=config.pp_rank, engine="sglang", free=facts,
    )  # fmt: skip


def dtype_of(pool: Any) -> str:
    """The name of a pool's dtype; ``""`` where it has none."""
    return str(getattr(pool, "dtype", "") or "").removeprefix("torch.")


def chunk_meta(pool: Any, nbytes: int) -> ChunkMeta:
    """What a page is stored as: elements of the pool's dtype in one dimension where it has one, else bytes."""
    name, size = dtype_of(pool), int(getattr(getattr(pool, "dtype", None), "itemsize", 0) or 0)
    if name not in DTYPE_NAMES or not size or nbytes % size:
        name, size = "uint8", 1
    return ChunkMeta(nbytes, MemoryFormat.BINARY, name, (nbytes // size,))
