"""The replay engine: a trace's requests through one backend with real bytes, timed and checked byte for byte.

For each request: look up the leading run of cached blocks, get and verify them, put the rest. Making and checking
bytes stays outside the timed sections. How tiers are measured and results are shown lives elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from lms_tiers.errors import CapacityError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.keys import BlockKeys
from lms_tiers.replay.trace import Request

#: Bytes handed to one `get_many` or `put_many` at most, so that a long request of large blocks fits in memory.
_WINDOW: Final = 64 * 2**20
_WRONG_SHOWN: Final = 10


class Meter(Protocol):
    """Measures the tiers of the backend that is replayed through."""

    def sample(self) -> tuple[int, ...]:
        """Physical bytes in each tier now."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The state after one request; counts are since the start."""

    seconds: float
    timestamp: float
    blocks: int
    prefix_hits: int
    tier_bytes: tuple[int, ...]


@dataclass(slots=True)
class Timing:
    """Calls of one kind: a block's latency is its call's time divided by the blocks of the call."""

    seconds: float = 0.0
    blocks: int = 0
    latencies: list[float] = field(default_factory=list)

    def add(self, seconds: float, blocks: int) -> None:
        """Count one call."""
        self.seconds += seconds
        self.blocks += blocks
        self.latencies += [seconds / blocks] * blocks

    def percentile_ms(self, p: float) -> float | None:
        """The latency of a block in milliseconds that `p` percent do not exceed; None without any."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]

    def mb_s(self, block_bytes: int) -> float | None:
        """10⁶ bytes a second."""
        return self.blocks * block_bytes / self.seconds / 1e6 if self.seconds else None


@dataclass(slots=True)
class ReplayResult:
    """What a replay counted.

    Attributes
    ----------
    requests, blocks : int
    prefix_hits : int
        Blocks of leading runs that were cached before their request put anything, and were got.
    verified, wrong : int
        Blocks got and compared, and those of them whose bytes or metadata were not what was put.
    wrong_keys : list of str
        The first few wrong ones.
    vanished : int
        Blocks reported present whose get answered None: they left in between, and count as misses.
    refused : int
        Puts for which there was no room (`CapacityError`).
    lookup_seconds, flush_seconds, seconds : float
        Time in `contains_prefix`, in the final `flush`, and of the whole replay.
    get, put : Timing
    samples : list of Sample
    """

    requests: int = 0
    blocks: int = 0
    prefix_hits: int = 0
    verified: int = 0
    wrong: int = 0
    wrong_keys: list[str] = field(default_factory=list)
    vanished: int = 0
    refused: int = 0
    lookup_seconds: float = 0.0
    flush_seconds: float = 0.0
    seconds: float = 0.0
    get: Timing = field(default_factory=Timing)
    put: Timing = field(default_factory=Timing)
    samples: list[Sample] = field(default_factory=list)


class Replay:
    """One replay through one backend.

    Parameters
    ----------
    backend : LMSBackendInterface
    blocks : BlockBytes
    keys : BlockKeys
    meter : Meter
    keep_partial : bool
        Put the partly filled last block of an input, too.
    """

    def __init__(
        self, backend: LMSBackendInterface, blocks: BlockBytes, keys: BlockKeys, meter: Meter, keep_partial: bool = True
    ) -> None:
        self._backend = backend
        self._blocks = blocks
        self._keys = keys
        self._meter = meter
        self._keep_partial = keep_partial
        self._window = max(1, _WINDOW // blocks.block_bytes)
        self.result: Final = ReplayResult()

    def run(
        self, requests: Sequence[Request], on_request: Callable[[ReplayResult], None] | None = None
    ) -> ReplayResult:
        """Replay requests one after the other, as fast as they go, then flush."""
        result = self.result
        started = time.perf_counter()
        for number, request in enumerate(requests):
            keys = [self._keys.key(block) for block in request.hash_ids]
            partial = keys[-1:] if request.tail_is_partial() else []
            with _request(self._backend, number, partial):
                self._one(request, keys)
            result.requests += 1
            result.blocks += len(request.hash_ids)
            elapsed = time.perf_counter() - started
            result.samples.append(
                Sample(elapsed, request.timestamp, result.blocks, result.prefix_hits, self._meter.sample())
            )
            if on_request is not None:
                on_request(result)
        flushing = time.perf_counter()
        self._backend.flush()
        ended = time.perf_counter()
        self._meter.sample()
        result.flush_seconds = ended - flushing
        result.seconds = ended - started
        return result

    def _one(self, request: Request, keys: Sequence[Any]) -> None:
        ids = request.hash_ids
        started = time.perf_counter()
        present = self._backend.contains_prefix(keys)
        self.result.lookup_seconds += time.perf_counter() - started
        got = self._get(ids[:present], keys[:present])
        run = got.index(False) if False in got else len(got)
        self.result.prefix_hits += run
        last = len(ids) - 1
        rest = [
            (ids[i], keys[i])
            for i in range(run, len(ids))
            if not (i < len(got) and got[i]) and (self._keep_partial or i < last or not request.tail_is_partial())
        ]
        for window in _windows(rest, self._window):
            self._put(window)

    def _get(self, ids: Sequence[int | str], keys: Sequence[Any]) -> list[bool]:
        """Read blocks until one is missing; which of those tried were got."""
        got: list[bool] = []
        for window in _windows(list(zip(ids, keys, strict=True)), self._window):
            started = time.perf_counter()
            objs = self._backend.get_many([key for _, key in window])
            seconds = time.perf_counter() - started
            found = [obj is not None for obj in objs]
            if any(found):
                self.result.get.add(seconds, sum(found))
            for (block, key), obj in zip(window, objs, strict=True):
                if obj is not None:
                    self.result.verified += 1
                    if not (self._keys.describes(obj) and self._blocks.matches(block, obj.data)):
                        self._note_wrong(key.to_string())
            got += found
            if not all(found):
                self.result.vanished += found.count(False)
                break
        return got

    def _note_wrong(self, key: str) -> None:
        self.result.wrong += 1
        if len(self.result.wrong_keys) < _WRONG_SHOWN:
            self.result.wrong_keys.append(key)

    def _put(self, window: Sequence[tuple[int | str, Any]]) -> None:
        items = [(self._keys.message(key), self._blocks.make(block)) for block, key in window]
        started = time.perf_counter()
        try:
            self._backend.put_many(items)
        except CapacityError:
            self._put_singly(window)
        else:
            self.result.put.add(time.perf_counter() - started, len(items))

    def _put_singly(self, window: Sequence[tuple[int | str, Any]]) -> None:
        """After a batch found no room: put what it did not, one by one, so that each refusal is counted."""
        for block, key in window:
            if self._backend.contains(key):
                continue
            message, data = self._keys.message(key), self._blocks.make(block)
            started = time.perf_counter()
            try:
                self._backend.put(message, data)
            except CapacityError:
                self.result.refused += 1
            else:
                self.result.put.add(time.perf_counter() - started, 1)


def _request(backend: LMSBackendInterface, number: int, partial: Sequence[Any]) -> AbstractContextManager[Any]:
    """Tell the tiered store's policies which accesses belong together; a bare backend has no use for it."""
    begin = getattr(backend, "request", None)
    if begin is None:
        return nullcontext()
    entered: AbstractContextManager[Any] = begin(number, partial)
    return entered


def _windows(items: Sequence[tuple[int | str, Any]], size: int) -> Iterator[Sequence[tuple[int | str, Any]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
