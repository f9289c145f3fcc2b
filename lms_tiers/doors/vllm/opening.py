"""The store of a tier: from its device text, with one place for each replica where a place is private."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from lms_tiers.device import DeviceSpec, parse_device
from lms_tiers.errors import ConfigError
from lms_tiers.factory import open_device
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.registry import default_registry

if TYPE_CHECKING:
    from lms_tiers.tiered.watch.events import TierEvent

#: Stands for the number of the replica (of data parallelism) in a device text.
RANK: Final = "{rank}"


def device_of(text: str, replica: int, replicas: int) -> DeviceSpec:
    """The device of one replica.

    Raises
    ------
    ConfigError
        Replicas would open one private place on disk, of which only the first could.
    """
    device = parse_device(text.replace(RANK, str(replica)))
    if replicas > 1 and RANK not in text:
        backends = default_registry().backends
        for tier in device.tiers:
            if tier.location and backends[tier.name].medium == "disk":
                raise ConfigError(
                    f"{replicas} replicas would open {tier.name}:{tier.location}, which one process can: put {RANK} "
                    "into the location, or share a server between them (lms-tiers serve, and a last tier lm:HOST:PORT)."
                )
    return device


def alone_and_shared(device: DeviceSpec) -> bool:
    """Whether the device is one tier that others write to as well: no store is made of it, and it tells no events."""
    return len(device.tiers) == 1 and default_registry().backends[device.tiers[0].name].medium == "shared"


def opened(device: DeviceSpec, observe: Callable[[Sequence[TierEvent]], None] | None) -> LMSBackendInterface:
    """The store over the device's tiers; a tier that is shared and alone is its bare backend."""
    return open_device(device, on_events=None if alone_and_shared(device) else observe or _nobody)


def _nobody(events: Sequence[TierEvent]) -> None:
    """An observer makes one tier a store too, which has leases and takes contexts."""
