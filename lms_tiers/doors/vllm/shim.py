"""All that is taken from vLLM, and what its versions call differently: 0.31 to 0.33."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any, Final

from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingCounterMetadata,
    OffloadingEvent,
    OffloadingGaugeMetadata,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.file_mapper import FileMapper
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

__all__ = [
    "Locality",
    "LookupResult",
    "Medium",
    "OffloadingCounterMetadata",
    "OffloadingGaugeMetadata",
    "RequestOffloadingContext",
    "SecondaryTierManager",
    "connector_stats",
    "event",
    "job_result",
    "run_config",
    "slots_of",
]

_EVENT: Final = {field.name for field in fields(OffloadingEvent)}
_RESULT: Final = {field.name for field in fields(JobResult)}


def slots_of(job: Any) -> list[int]:
    """Which rows of the primary tier a job is about, in the order of its keys."""
    slots = getattr(job, "chunk_ids", None)
    if slots is None:
        slots = job.block_ids
    return [int(slot) for slot in slots]


def job_result(job: int, success: bool, keys: Collection[bytes] | None, seconds: float, nbytes: int) -> Any:
    """The result of a transfer; `keys` are those that succeeded, of a load that failed in part."""
    told = {"transfer_time": seconds, "transfer_bytes": nbytes}
    return JobResult(
        job_id=job, success=success, successful_keys=keys, **{k: v for k, v in told.items() if k in _RESULT}
    )


def event(keys: Sequence[bytes], removed: bool, locality: Any, owner: str, expected: bool) -> Any:
    """Chunks stored in this tier, or removed from it; `expected`: those that are stored are told of when they go."""
    told = {"locality": locality, "ownership": owner, "removal_expected": expected and not removed}
    return OffloadingEvent(
        keys=list(keys), medium=Medium.STORAGE, removed=removed, **{k: v for k, v in told.items() if k in _EVENT}
    )


def run_config(spec: Any, portable: bool) -> tuple[dict[str, Any], int]:
    """What vLLM itself tells the chunks of one run from those of another by, and the rank."""
    mapper = FileMapper.from_offloading_spec(
        root_dir="", offloading_spec=spec, blocks_per_file=spec.blocks_per_chunk, parallel_agnostic=portable
    )
    return mapper.get_run_config(), mapper.rank


def connector_stats() -> Any:
    """An empty record of metrics."""
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats

    return OffloadingConnectorStats()
