"""The store of one rank: from its device text, with a place of its own where a place is private."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from lms_tiers.device import DeviceSpec, parse_device
from lms_tiers.errors import ConfigError
from lms_tiers.factory import open_device
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.registry import default_registry

if TYPE_CHECKING:
    from lms_tiers.tiered.watch.events import TierEvent

#: Stands for the rank in a device text.
RANK: Final = "{rank}"


def ranks(config: Any) -> tuple[str, int]:
    """This rank as a text that no other rank of the server has, and how many there are that SGLang tells of."""
    parts = [
        ("dp", config.dp_rank, 2 if config.dp_rank else 1), ("pp", config.pp_rank, config.pp_size),
        ("cp", config.attn_cp_rank, config.attn_cp_size), ("tp", config.tp_rank, config.tp_size),
    ]  # fmt: skip
    count = 1
    for _, _, size in parts:
        count *= size
    # All of them always: a data-parallel rank 0 cannot tell that there are others.
    return "-".join(f"{name}{rank}" for name, rank, _ in parts), count


def device_of(text: str, config: Any) -> DeviceSpec:
    """The device of one rank.

    Raises
    ------
    ConfigError
        Ranks would open one private place on disk, of which only the first could; or each would have a store of its own
        where only the first one writes.
    """
    rank, count = ranks(config)
    device = parse_device(text.replace(RANK, rank))
    backends = default_registry().backends
    if config.is_mla_model and config.tp_size > 1 and not _shared(device):
        raise ConfigError(
            f"with MLA, rank 0 of {config.tp_size} writes and all read: a store of each rank's own never has a hit. "
            "End the device with a tier that they share, such as lm:HOST:PORT (lms-tiers serve)."
        )
    if count > 1 and RANK not in text:
        for tier in device.tiers:
            if tier.location and backends[tier.name].medium == "disk":
                raise ConfigError(
                    f"{count} ranks would open {tier.name}:{tier.location}, which one process can: put {RANK} into "
                    "the location, or share a server between them (lms-tiers serve, and a last tier lm:HOST:PORT)."
                )
    return device


def opened(device: DeviceSpec) -> LMSBackendInterface:
    """The store over the device's tiers; a tier that is shared and alone is its bare backend."""
    alone = len(device.tiers) == 1 and _shared(device)
    return open_device(device, on_events=None if alone else _nobody)


def _shared(device: DeviceSpec) -> bool:
    return default_registry().backends[device.tiers[-1].name].medium == "shared"


def _nobody(events: Sequence[TierEvent]) -> None:
    """An observer makes one tier a store too, which reads and writes by runs and takes contexts."""
