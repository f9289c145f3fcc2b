"""From counters to `StoreStats`: the store's own, and what the backends know better."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lms_tiers.interface import BackendStats, LMSBackendInterface
from lms_tiers.tiered.watch.stats import StoreStats, TierStats

if TYPE_CHECKING:
    from lms_tiers.tiered.paths.beyond import Beyond
    from lms_tiers.tiered.paths.reads import Reader
    from lms_tiers.tiered.state.hierarchy import Hierarchy


def store_stats(hierarchy: Hierarchy, reader: Reader, beyond: Beyond | None) -> StoreStats:
    """The store's statistics now. Takes the lock, and asks each backend without it."""
    # A tier that is switched off may be stuck: whoever asks for figures must not get stuck with it.
    backends = [_backend_stats(tier.backend) if hierarchy.up & tier.bit else None for tier in hierarchy.tiers]
    engine = _backend_stats(beyond.backend) if beyond is not None and beyond.edge.up else None
    with hierarchy.lock:
        hierarchy.recency.tell()
        tiers = tuple(_tier_stats(t.snapshot(), own) for t, own in zip(hierarchy.tiers, backends, strict=True))
        keys = len(hierarchy.index) + sum(tier.unlisted for tier in hierarchy.tiers)
        hits, misses, puts = hierarchy.recency.hits, reader.misses, hierarchy.puts
        edge = None if beyond is None else dataclasses.replace(beyond.edge.snapshot(), backend=engine)
    return StoreStats(
        keys=keys if edge is None else None,
        private_keys=keys,
        bytes_used=sum(t.bytes_used for t in tiers),
        bytes_peak=sum(t.peak_bytes for t in tiers),
        bytes_written=sum(t.bytes_written for t in tiers),
        bytes_read=sum(t.bytes_read for t in tiers),
        failures=sum(t.failures for t in tiers) + (edge.failures if edge is not None else 0),
        corrupt=sum(t.corrupt for t in tiers),
        tiers=tiers,
        hits=hits + (edge.hits if edge is not None else 0),
        misses=misses - (edge.hits if edge is not None else 0),  # the private tiers counted those as well
        puts=puts,
        events_lost=hierarchy.log.lost,
        shared=edge,
    )


def _backend_stats(backend: LMSBackendInterface) -> BackendStats | None:
    if type(backend).stats is LMSBackendInterface.stats:
        return None  # the default lists every key
    try:
        return backend.stats()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return None  # a sick backend's figures are missing, the store's own are not


def _tier_stats(stats: TierStats, own: BackendStats | None) -> TierStats:
    if own is None:
        return stats
    used, peak = own.bytes_used, own.bytes_peak
    return dataclasses.replace(
        stats,
        bytes_used=stats.bytes_used if used is None or peak is None else used,
        peak_bytes=stats.peak_bytes if peak is None else peak,
        corrupt=max(stats.corrupt, own.corrupt),
        backend=own,
    )
