"""As much of vLLM as the door touches, made for tests that run without it: names and meanings, none of its code.

Where `make doors` runs the same tests, vLLM itself is there and none of this is used.
"""

from __future__ import annotations

import enum
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from tests.doors.stand_in import standing_in

ROOT = "vllm.v1.kv_offload"


class Medium(enum.Enum):
    CPU = "CPU"
    STORAGE = "STORAGE"


class Locality(enum.Enum):
    LOCAL = "LOCAL"
    REMOTE = "REMOTE"


class LookupResult(enum.Enum):
    MISS = 1
    HIT = 2
    HIT_PENDING = 3
    RETRY = 4


@dataclass
class OffloadingEvent:
    keys: list[bytes]
    medium: Medium
    removed: bool
    locality: Locality | None = None
    ownership: str | None = None
    removal_expected: bool = False


@dataclass
class RequestOffloadingContext:
    policy: str = "chunk"


@dataclass(frozen=True)
class Metadata:
    documentation: str
    labelnames: tuple[str, ...] = ()


@dataclass
class JobResult:
    job_id: int
    success: bool
    successful_keys: Any = None
    transfer_time: float | None = None
    transfer_bytes: int | None = None


class SecondaryTierManager:
    def __init__(self, offloading_spec: Any, primary_kv_view: memoryview, tier_type: str, backpressure: Any) -> None:
        self.tier_type = tier_type
        self.locality: Any = None
        self._primary_kv_view = primary_kv_view


class FileMapper:
    """Tells runs apart; parallel sizes only where the bytes depend on them."""

    def __init__(self, fields: dict[str, Any], rank: int) -> None:
        self.fields, self.rank = fields, rank

    @classmethod
    def from_offloading_spec(
        cls, root_dir: str, offloading_spec: Any, blocks_per_file: int, parallel_agnostic: bool
    ) -> FileMapper:
        config = offloading_spec.config
        portable = parallel_agnostic and config.parallel.is_parallelism_agnostic
        fields = {
            "model_name": config.model.name,
            "dtype": config.model.dtype,
            "blocks_per_file": blocks_per_file,
            "tokens_per_hash": config.cache.tokens_per_hash,
            "tp_size": 1 if portable else config.parallel.tp_size,
            "pp_size": 1 if portable else config.parallel.pp_size,
            "groups": [[g.tokens_per_block, *g.layer_names] for g in config.groups],
        }
        return cls(fields, 0 if portable else config.parallel.rank)

    def get_run_config(self) -> dict[str, Any]:
        return dict(self.fields)


class Stats:
    def __init__(self) -> None:
        self.counters: dict[str, float] = {}
        self.gauges: dict[str, float] = {}

    def increase_counter(self, name: str, value: float, labelvalues: tuple[str, ...]) -> None:
        self.counters[name] = self.counters.get(name, 0) + value

    def set_gauge(self, name: str, value: float, labelvalues: tuple[str, ...]) -> None:
        self.gauges[name] = value


class SecondaryTierFactory:
    _registry: ClassVar[dict[str, Any]] = {}

    @classmethod
    def register_tier(cls, tier_type: str, module_path: str, class_name: str) -> None:
        if tier_type in cls._registry:
            raise ValueError(f"{tier_type} is there already")
        cls._registry[tier_type] = (module_path, class_name)


MODULES: dict[str, dict[str, Any]] = {
    f"{ROOT}.base": {
        "Locality": Locality, "LookupResult": LookupResult, "Medium": Medium, "OffloadingEvent": OffloadingEvent,
        "OffloadingCounterMetadata": Metadata, "OffloadingGaugeMetadata": Metadata,
        "RequestOffloadingContext": RequestOffloadingContext,
    },
    f"{ROOT}.file_mapper": {"FileMapper": FileMapper},
    f"{ROOT}.tiering.base": {"JobResult": JobResult, "SecondaryTierManager": SecondaryTierManager},
    f"{ROOT}.tiering.factory": {"SecondaryTierFactory": SecondaryTierFactory},
    "vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics": {"OffloadingConnectorStats": Stats},
}  # fmt: skip


def installed() -> AbstractContextManager[None]:
    """See `standing_in`."""
    return standing_in("vllm", MODULES)
