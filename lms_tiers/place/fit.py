"""Whether a device's capacities fit the machine they are meant for.

What a tier lies on is told by its backend's spec; a medium that is not told is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lms_tiers.device import DeviceSpec, TierSpec
from lms_tiers.hookspecs import BackendSpec
from lms_tiers.place.machine import Disk, Machine
from lms_tiers.sizes import format_size


def media_of(specs: Iterable[BackendSpec]) -> dict[str, str]:
    """The medium of each backend that tells one, by all its names."""
    return {
        name: spec.medium for spec in specs if spec.medium in ("memory", "disk") for name in (spec.name, *spec.aliases)
    }


def misfits(device: DeviceSpec, media: Mapping[str, str], machine: Machine, reserve: int = 0) -> list[str]:
    """What does not fit, a sentence each that names what is asked for and what is there.

    Parameters
    ----------
    device : DeviceSpec
        Tiers without a capacity are not judged.
    media : mapping of str to str
        ``"memory"`` or ``"disk"`` by the name of a backend.
    machine : Machine
    reserve : int
        Bytes of memory that the process takes besides its tiers.
    """
    sized = [(tier, tier.capacity) for tier in device.tiers if tier.capacity is not None]
    disks = [
        (tier, capacity, disk)
        for tier, capacity in sized
        if media.get(tier.name) == "disk" and tier.location and (disk := machine.disk(Path(tier.location)))
    ]
    floating = [tier for tier, _, disk in disks if disk.in_memory]
    in_memory = [(tier, capacity) for tier, capacity in sized if media.get(tier.name) == "memory" or tier in floating]
    return [*_memory(in_memory, machine, reserve), *_disks(disks)]


def _memory(tiers: list[tuple[TierSpec, int]], machine: Machine, reserve: int) -> Iterator[str]:
    limit = machine.memory()
    asked = sum(capacity for _, capacity in tiers) + reserve
    if not tiers or limit is None or asked <= limit.nbytes:
        return
    besides = f" and {format_size(reserve)} besides" if reserve else ""
    yield (
        f"tiers in memory ({_named(tiers)}){besides} may take {format_size(asked)}, but {limit.source} allows "
        f"{format_size(limit.nbytes)}: lower the capacities."
    )


def _disks(tiers: list[tuple[TierSpec, int, Disk]]) -> Iterator[str]:
    for number in dict.fromkeys(disk.device for _, _, disk in tiers):
        here = [(tier, capacity, disk) for tier, capacity, disk in tiers if disk.device == number]
        asked = sum(capacity for _, capacity, _ in here)
        held = sum({disk.where: disk.held for _, _, disk in here}.values())
        free, where = here[0][2].free, here[0][2].where
        if asked <= free + held:
            continue
        theirs = f" ({format_size(held)} of them what the store holds already)" if held else ""
        named = _named([(tier, capacity) for tier, capacity, _ in here])
        yield (
            f"tiers on disk ({named}) may take {format_size(asked)}, but the file system of {where} has room for "
            f"{format_size(free + held)}{theirs}: lower the capacities, or use another disk."
        )


def _named(tiers: list[tuple[TierSpec, int]]) -> str:
    return ", ".join(f"{tier.name} {format_size(capacity)}" for tier, capacity in tiers)
