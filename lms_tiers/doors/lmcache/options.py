"""What may stand in `adapter_params` of the L2 adapter."""

from __future__ import annotations

from pydantic import Field

from lms_tiers.namespace import Value
from lms_tiers.options import Options


class AdapterOptions(Options):
    """Options of the L2 adapter."""

    device: str = Field(description="the store, as `lms-tiers serve --device` takes it")
    revision: str = Field("", description="revision of the models served; another revision's chunks are misses")
    namespace: dict[str, Value] = Field(
        {}, description="whatever else the bytes depend on that LMCache's keys leave out"
    )
    workers: int = Field(4, ge=1, le=64, description="threads that store and load; one of them loads only")
    lock_seconds: float = Field(300.0, gt=0, le=3600, description="after which a look-up's lock ends by itself")
    store_within: float = Field(
        240.0, gt=0, description="a store that has not been done so many seconds after it was handed in is given up; "
        "less than LMCache's `l1_read_ttl_seconds` (300), when it may give the memory to others"
    )  # fmt: skip
    load_within: float = Field(480.0, gt=0, description="as `store_within`; less than `l1_write_ttl_seconds` (600)")
    list_wait: float = Field(5.0, ge=0, description="seconds that opening waits for the listing of what is there")
