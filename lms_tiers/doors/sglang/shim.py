"""What this door takes of SGLang: the one place where its releases may differ. Importing this imports SGLang."""

from __future__ import annotations

from typing import Any, Final

from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    PoolHitPolicy,
    PoolName,
    PoolTransferResult,
)

__all__ = ["KV", "HiCacheStorage", "PoolTransferResult", "name_of", "result", "server_dtype", "storage_metrics"]

#: The pool that the others stand beside.
KV: Final = str(PoolName.KV)

#: What a hit of a pool needs, by SGLang's names for it.
ALL_PAGES: Final = PoolHitPolicy.ALL_PAGES
TRAILING_PAGES: Final = PoolHitPolicy.TRAILING_PAGES
#: Of newer releases: a second form of pages in groups, which has a verdict of its own.
BLOCK_GROUPS: Final = getattr(PoolHitPolicy, "BLOCK_GROUPS", None)


def name_of(pool: Any) -> str:
    """A pool's name as text."""
    return str(getattr(pool, "value", pool))


def result(pages: int, hits: dict[Any, int], restorable: list[int]) -> Any:
    """The answer of `batch_exists_v2`; that of older releases has no lengths that can be restored."""
    if "restorable_prefix_pages" in PoolTransferResult.__dataclass_fields__:
        return PoolTransferResult(pages, hits, restorable)
    return PoolTransferResult(pages, hits)


def server_dtype() -> str:
    """What the cache's elements are, as the server was told; ``""`` where no server runs or it does not say.

    Pools of 8-bit floats are bytes: their own dtype does not tell one kind from the other.
    """
    try:
        from sglang.srt.runtime_context import get_server_args

        return str(get_server_args().kv_cache_dtype or "")
    except Exception:
        return ""


def storage_metrics() -> Any:
    """An empty record of what was moved, as SGLang's collector takes it."""
    try:
        from sglang.srt.observability.metrics_collector import StorageMetrics
    except ImportError:  # where older releases have it
        from sglang.srt.metrics.collector import StorageMetrics
    return StorageMetrics()
