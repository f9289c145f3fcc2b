"""Measures tiers during a replay: what the store says of them, and what their files really take on disk.

The store's word alone would not show a budget that it miscounts. Knows `stats()` and file sizes, no concrete backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lms_tiers.device import DeviceSpec, TierSpec
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.place.machine import disk_bytes
from lms_tiers.tiered.watch.stats import StoreStats


@dataclass(frozen=True, slots=True)
class TierFigures:
    """One tier after a replay.

    Attributes
    ----------
    name : str
    hits : int
        Gets the tier answered.
    capacity_bytes : int or None
    peak_bytes : int
        The most physical bytes held at any moment: the larger of what the store says and what was seen on disk.
    bytes_written, bytes_read : int
    """

    name: str
    hits: int
    capacity_bytes: int | None
    peak_bytes: int
    bytes_written: int
    bytes_read: int

    @property
    def over_capacity(self) -> bool:
        """Whether the tier held more than it may."""
        return self.capacity_bytes is not None and self.peak_bytes > self.capacity_bytes


class TierMeter:
    """Samples and sums up the tiers of one open device.

    Parameters
    ----------
    backend : LMSBackendInterface
        The bare backend or the store that `device` opened.
    device : DeviceSpec
    """

    def __init__(self, backend: LMSBackendInterface, device: DeviceSpec) -> None:
        self._backend = backend
        self._specs = device.tiers
        self._places = [_place(spec) for spec in device.tiers]
        self._peaks = [0] * len(device.tiers)

    def sample(self) -> tuple[int, ...]:
        """Physical bytes in each tier now, as on disk where it has files; 0 for one shared with others."""
        stats = self._backend.stats()
        said = [stats.bytes_used or 0]
        if isinstance(stats, StoreStats):
            said = [tier.bytes_used for tier in stats.tiers] + [0] * (stats.shared is not None)
        now = tuple(
            used if place is None else disk_bytes(place) for used, place in zip(said, self._places, strict=True)
        )
        self._peaks = [max(pair) for pair in zip(self._peaks, now, strict=True)]
        return now

    def figures(self, gets: int) -> list[TierFigures]:
        """What the tiers held and did until now; `gets` are the chunks got, all of them hits of a bare backend."""
        self.sample()
        stats = self._backend.stats()
        if isinstance(stats, StoreStats):
            tiers = [
                TierFigures(t.name, t.hits, t.capacity_bytes, max(t.peak_bytes, seen), t.bytes_written, t.bytes_read)
                for t, seen in zip(stats.tiers, self._peaks, strict=False)
            ]
            edge = stats.shared
            if edge is not None:
                tiers.append(TierFigures(edge.name, edge.hits, None, 0, edge.bytes_written, edge.bytes_read))
            return tiers
        spec = self._specs[0]
        peak = max(stats.bytes_peak or 0, self._peaks[0])
        return [TierFigures(spec.name, gets, spec.capacity, peak, stats.bytes_written, stats.bytes_read)]


def _place(spec: TierSpec) -> Path | None:
    """Where a tier keeps its files; None for one in memory."""
    path = Path(spec.location)
    return path if spec.location and path.exists() else None
