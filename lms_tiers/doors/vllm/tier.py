"""The secondary tier: what vLLM's scheduler calls, none of which waits but `drain_jobs` and `shutdown`.

All calls come one after the other, under a lock of vLLM's. What takes time is in `lookups.py` and `transfers.py`.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, ClassVar, Final

from lms_tiers.doors.vllm import shim
from lms_tiers.doors.vllm.figures import COUNTERS, GAUGES, LABEL, Figures, named
from lms_tiers.doors.vllm.identity import chunk_meta, namespace
from lms_tiers.doors.vllm.inventory import Inventory
from lms_tiers.doors.vllm.lookups import Lookups
from lms_tiers.doors.vllm.opening import alone_and_shared, device_of, opened
from lms_tiers.doors.vllm.transfers import Transfers
from lms_tiers.errors import ConfigError, LmsTiersError, UnsupportedError
from lms_tiers.keys import OpaqueKey
from lms_tiers.namespaced import Namespaced
from lms_tiers.sizes import parse_duration

_log = logging.getLogger(__name__)

#: Seconds between two looks at what the store counts.
_LOOK: Final = 1.0

_OPTIONS: Final = (
    "device", "revision", "portable", "workers", "lookup_patience", "lease", "close_timeout", "enable_kv_events",
    "locality",
)  # fmt: skip


def _seconds(given: float | str) -> float:
    """A duration: a number of seconds, or a text with a unit."""
    return parse_duration(given if isinstance(given, str) else f"{given}s")


class LMSTier(shim.SecondaryTierManager):  # type: ignore[misc]  # vLLM is not there when types are checked
    """A store of this project's as a secondary tier of vLLM's.

    Parameters
    ----------
    offloading_spec, primary_kv_view, tier_type, backpressure_detector
        As vLLM gives them.
    device : str
        A device text, or the path of a TOML file. ``{rank}`` in it stands for the number of the replica.
    revision : str
        Of the model: another one reads nothing that this one stored. vLLM does not tell it.
    portable : bool
        Let runs of other parallel sizes read these chunks, where vLLM says that the bytes are the same.
    workers : int
        Threads that move chunks.
    lookup_patience, lease, close_timeout : duration
        A lookup that is not answered in that time is a miss; how long a chunk that was found is kept from eviction
        for the load that follows; how long `shutdown` waits for what is in the store.
    enable_kv_events : bool
        Tell of chunks stored and removed, where vLLM's own events are on.
    locality : {"LOCAL", "REMOTE"}, optional
        Where the store is, for routers; where it is not given: remote for a server alone.

    Raises
    ------
    ConfigError
        An option that is not known or not good; replicas that would open one place.
    StorageUnavailableError, StorageLockedError, FormatError, PluginError
        The store cannot be opened.
    """

    medium: ClassVar[Any] = shim.Medium.STORAGE

    def __init__(
        self, offloading_spec: Any, primary_kv_view: memoryview, tier_type: str,
        backpressure_detector: Any = None, *,
        device: str = "", revision: str = "", portable: bool = False, workers: int = 4,
        lookup_patience: float | str = 1.0, lease: float | str = 30.0, close_timeout: float | str = 60.0,
        enable_kv_events: bool = True, locality: str | None = None, **unknown: Any,
    ) -> None:  # fmt: skip
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        for name in unknown:
            raise ConfigError(f"tier {tier_type!r} has no option {name!r}.", unknown=name, known=_OPTIONS)
        if not device:
            raise ConfigError(f'tier {tier_type!r} needs a "device", for example "lmdb:/data/kv?capacity=200GiB".')
        self._lease: Final = _seconds(lease)
        self._close_timeout: Final = _seconds(close_timeout)
        config = offloading_spec.config
        parallel = config.parallel
        row = primary_kv_view.strides[0] if primary_kv_view.strides else 0
        spec = device_of(device, parallel.data_parallel_index, parallel.data_parallel_size)
        self._events: Final = bool(enable_kv_events and offloading_spec.kv_events_config.enable_kv_cache_events)
        self._inventory: Final = Inventory()
        self._told: Final = not alone_and_shared(spec)
        run, rank = shim.run_config(offloading_spec, bool(portable))
        layout, canonical = (getattr(config, name, None) for name in ("kv_cache_layout", "canonical_layout"))
        self._namespace: Final = namespace(run, rank, layout, bool(canonical), row, str(revision))
        self.locality = shim.Locality(locality or ("LOCAL" if self._told else "REMOTE"))
        self._figures: Final = Figures(tier_type)
        self._looked = 0.0
        name = f"lms-vllm-{tier_type}"
        with ExitStack() as undo:
            backend = opened(spec, self._inventory.observe if self._events else None)
            self._store: Final = Namespaced(backend, self._namespace)
            undo.callback(self._store.close)
            self._leases = hasattr(backend, "pin_each") and self._lease > 0
            self._rows: Final = primary_kv_view.cast("B")
            undo.callback(self._rows.release)
            self._lookups: Final = Lookups(name, self._ask, _seconds(lookup_patience))
            undo.callback(self._lookups.close, None)
            self._transfers: Final = Transfers(
                name, self._store, self._rows, chunk_meta(str(config.model.dtype), row),
                workers=int(workers), contexts=self._told, release=self._unpin,
            )  # fmt: skip
            undo.pop_all()
        if self._events and self._told:
            self._transfers.behind(self._list)
        _log.info("tier %r: %s, namespace %s, rows of %d bytes", tier_type, spec, self._namespace.digest, row)

    # -- in threads of the door's own ----------------------------------------------------------------------------------

    def _ask(self, keys: Sequence[bytes], request: str) -> Sequence[bool]:
        named_keys = [OpaqueKey(key.hex()) for key in keys]
        held = self._store.contains_many(named_keys)
        if self._leases:
            backend: Any = self._store.backend
            wanted = [self._store.key(key) for key, there in zip(named_keys, held, strict=True) if there]
            try:
                backend.pin_each(wanted, self._lease, holder=self._namespace.digest)
            except UnsupportedError:  # a server over storage that evicts nothing, or knows no leases
                self._leases = False
            except LmsTiersError as error:
                _log.info("tier %r: no leases: %s", self.tier_type, error)
        return held

    def _unpin(self, keys: Sequence[bytes]) -> None:
        if self._leases:
            backend: Any = self._store.backend
            with suppress(LmsTiersError):  # each ends by its time
                backend.unpin_each([self._store.key(OpaqueKey(key.hex())) for key in keys],
                                   holder=self._namespace.digest)  # fmt: skip

    def _list(self) -> None:
        self._inventory.begin(self._namespace, (key.to_string() for key in self._store.list_keys()))

    # -- in the scheduler's thread: nothing waits ----------------------------------------------------------------------

    def lookup(self, key: bytes, req_context: Any) -> Any:
        """RETRY until it is known whether the store holds `key`."""
        found = self._lookups.lookup(key, req_context.req_id)
        if found is None:
            return shim.LookupResult.RETRY
        return shim.LookupResult.HIT if found else shim.LookupResult.MISS

    def submit_store(self, job_metadata: Any) -> None:
        """Store rows that the primary tier keeps until the job is reported."""
        keys, slots = list(job_metadata.keys), shim.slots_of(job_metadata)
        self._transfers.store(job_metadata.job_id, keys, slots, job_metadata.req_context.req_id)

    def submit_load(self, job_metadata: Any) -> None:
        """Load chunks into rows that are the tier's until the job is reported."""
        keys, slots = list(job_metadata.keys), shim.slots_of(job_metadata)
        self._transfers.load(job_metadata.job_id, keys, slots, job_metadata.req_context.req_id)

    def get_finished_jobs(self) -> Iterable[Any]:
        """Every job that has ended since the last call; keys of a load that failed read as absent from now on."""
        results = []
        for moved in self._transfers.poll():
            good, bad = moved.of(True), moved.of(False)
            kind = "load" if moved.load else "store"
            self._figures.count(f"{'loaded' if moved.load else 'stored'}_chunks", len(good))
            self._figures.count(f"failed_{kind}_chunks", len(bad))
            if moved.load:
                self._lookups.missing(bad)
            elif self._events and not self._told:
                self._inventory.stored(good)
            partly = tuple(good) if moved.load and good and bad else None
            results.append(shim.job_result(moved.job, not bad, partly, moved.seconds, moved.nbytes))
        return results

    def take_events(self) -> Iterator[Any]:
        """Chunks stored and removed since the last call."""
        if self._events:
            for keys, gone in self._inventory.take():
                yield shim.event(keys, gone, self.locality, self.tier_type, self._told)

    def on_new_request(self, req_context: Any) -> Any:
        """No wishes: chunks as they are computed."""
        return shim.RequestOffloadingContext()

    def on_request_finished(self, req_context: Any) -> None:
        """Nothing of the request is looked up any more."""
        self._lookups.forget(req_context.req_id)

    def on_schedule_end(self, context: Any) -> None:
        """Ask the store for what the step has looked up."""
        self._lookups.flush()

    def get_stats(self) -> Any | None:
        """What has changed since the last call, and at most once a second what the store counts."""
        waiting, moving = self._transfers.counts()
        self._figures.state("waiting_parts", waiting)
        self._figures.state("moving_parts", moving)
        self._figures.stands("late_lookups", self._lookups.late)
        self._figures.stands("foreign_chunks", self._store.foreign)
        now = time.monotonic()
        if now - self._looked > _LOOK and not waiting:
            self._looked = now
            self._transfers.behind(self._look)
        return self._figures.take(shim.connector_stats())

    def _look(self) -> None:
        self._figures.of_store(self._store.stats())

    # -- these wait ----------------------------------------------------------------------------------------------------

    def drain_jobs(self) -> None:
        """Return when no row is in use; every result is down."""
        self._transfers.drain()

    def shutdown(self) -> None:
        """Drop what waits, wait for what runs, close the store; the primary tier's memory is in nobody's hands then.

        Raises
        ------
        DeadlineExceededError
            A transfer is inside the store for longer than `close_timeout`: vLLM keeps the memory then.
        """
        try:
            self._transfers.close(self._close_timeout)
            self._lookups.close(self._close_timeout)
            self._rows.release()
        finally:
            self._store.close()
            gc.collect()  # frames of calls that failed may hold views of rows, in cycles

    # -- before there is a tier ----------------------------------------------------------------------------------------

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, Any]:
        """The metrics of this tier, by name."""
        counters = {named(n): shim.OffloadingCounterMetadata(told, (LABEL,)) for n, told in COUNTERS.items()}
        gauges = {named(n): shim.OffloadingGaugeMetadata(told, (LABEL,)) for n, told in GAUGES.items()}
        return {**counters, **gauges}
