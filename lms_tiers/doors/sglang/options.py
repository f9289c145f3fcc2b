"""What may stand in `--hicache-storage-backend-extra-config` for this door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from lms_tiers.namespace import Value
from lms_tiers.options import Duration, Options

#: What SGLang reads of the same record.
ENGINES: Final = ("backend_name", "module_path", "class_name", "interface_v1")


class DoorOptions(Options):
    """Options of `HiCache`."""

    device: str = Field(description="the store, as `lms-tiers serve --device` takes it; `{rank}` stands for the rank")
    revision: str = Field("", description="revision of the model, which SGLang does not tell; another's are misses")
    kv_cache_dtype: str = Field("", description="of the cache's elements, where the server's own setting is `auto`")
    namespace: dict[str, Value] = Field({}, description="whatever else the bytes depend on (adapters, quantisation)")
    promote: bool = Field(False, description="let what is read rise into faster tiers: SGLang's host memory is one")
    close_timeout: Duration = Field(60.0, description="`close` waits so long for calls that are inside the store")


def options_of(extra: Mapping[str, Any] | None) -> DoorOptions:
    """The options in SGLang's record (`ConfigError` where one is not known or not good)."""
    return DoorOptions.parse("sglang", {name: value for name, value in (extra or {}).items() if name not in ENGINES})
