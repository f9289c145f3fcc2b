"""Stores to test: tiers over weighed memory, chunks that can be told apart, waiting by condition."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lms_conformance.shared import SharedEngine, SharedReference, forget_engine, shared_engine

from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, LMSMemoryObj, MemoryFormat
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.life import loading
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from tests.tiered.invariants import check
from tests.tiered.sharing import NAME
from tests.tiered.slow import Slow

#: Seconds until what never comes is an error.
PATIENCE = 60.0


class Weighed(LMSLocalBackend):
    """Host memory that weighs what it holds, what is being written included, without believing anybody."""

    def __init__(self) -> None:
        super().__init__()
        self._scales = threading.Lock()
        self._held: dict[str, int] = {}
        self.weight = self.heaviest = 0
        self.touches: list[str] = []
        self.state: bytes | None = None

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        text = client_meta.key.to_string()
        with self._scales:
            self.weight += client_meta.length
            self.heaviest = max(self.heaviest, self.weight)
        try:
            super().put(client_meta, kv_chunk_bytes)
        except BaseException:
            with self._scales:
                self.weight -= client_meta.length
            raise
        with self._scales:
            self.weight -= self._held.pop(text, 0)
            self._held[text] = client_meta.length

    def remove(self, key: CacheEngineKey) -> None:
        super().remove(key)
        with self._scales:
            self.weight -= self._held.pop(key.to_string(), 0)

    def touch(self, keys: Any) -> None:
        self.touches += [key.to_string() for key in keys]


class Bench:
    """Makes stores, keys and chunks; closes what it made."""

    def __init__(self) -> None:
        self.stores: list[TieredStore] = []
        self.backends: list[list[LMSBackendInterface]] = []

    def store(
        self, *capacities: int | None, backends: list[Any] | None = None, policies: list[Any] | None = None,
        write: str = "back", promote: dict[int, Any] | None = None, **options: Any,
    ) -> TieredStore:  # fmt: skip
        """A store of tiers ``t0``, ``t1``, … over weighed memory; nothing in it happens because time has passed."""
        chosen = backends or [Weighed() for _ in capacities]
        clock = options.get("clock", time.monotonic)
        configs = [
            TierConfig(
                f"t{i}", backend, capacity, policies[i] if policies else Lru(capacity or 1 << 60, clock),
                "through" if write == "through" and i else None, (promote or {}).get(i, "hits"),
            )
            for i, (backend, capacity) in enumerate(zip(chosen, capacities, strict=True))
        ]  # fmt: skip
        for limit in ("back_pressure", "stall", "close_timeout"):
            options.setdefault(limit, PATIENCE)
        store = TieredStore(configs, **options)
        self.stores.append(store)
        self.backends.append(chosen)
        return store

    def weights(self) -> list[Weighed]:
        """The backends of the store made last."""
        return self.backends[-1]  # type: ignore[return-value]  # where they are weighed ones

    @staticmethod
    def weighed() -> Weighed:
        return Weighed()

    @staticmethod
    def key(i: int | str) -> CacheEngineKey:
        return CacheEngineKey.from_string(f"model@1@0@{i:x}@bfloat16" if isinstance(i, int) else i)

    def meta(self, i: int | str, size: int) -> ClientMetaMessage:
        return ClientMetaMessage(
            ClientCommand.PUT, self.key(i), size, MemoryFormat.KV_2LTD, torch.uint8, torch.Size([size])
        )

    @staticmethod
    def data(value: int, size: int = 100) -> bytearray:
        """Bytes that carry `value` from end to end."""
        return bytearray((value.to_bytes(4, "little") * (size // 4 + 1))[:size])

    def put(self, store: LMSBackendInterface, i: int | str, value: int, size: int = 100) -> None:
        store.put(self.meta(i, size), self.data(value, size))

    @staticmethod
    def value(obj: LMSMemoryObj | None) -> int | None:
        """The value a chunk carries; fails on mixed or torn bytes."""
        if obj is None:
            return None
        data = bytes(obj.data)
        assert len(data) == obj.length
        value = int.from_bytes(data[:4], "little")
        assert data == Bench.data(value, len(data)), "torn bytes"
        return value

    def fill(self, store: TieredStore, chunks: int) -> None:
        """Put so many chunks, each when all before have gone where they go: none is dropped for want of time."""
        for i in range(chunks):
            self.put(store, i, i)
            store.drain(PATIENCE)

    def get(self, store: LMSBackendInterface, i: int | str) -> int | None:
        return self.value(store.get(self.key(i)))

    @staticmethod
    def stall(store: TieredStore, seconds: float) -> None:
        """From now on a call that is inside a backend for longer switches its tier off."""
        for tier in store._h.tiers:
            tier.stall = seconds

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "it never happened"
            pause.wait(0.002)

    @staticmethod
    def counted(owner: Any, name: str) -> list[dict[str, Any]]:
        """What a method of `owner` is called with by name, from now on: how often somebody came by."""
        calls: list[dict[str, Any]] = []
        method = getattr(owner, name)

        def noted(*args: Any, **named: Any) -> Any:
            calls.append(named)
            return method(*args, **named)

        setattr(owner, name, noted)
        return calls

    def done(self, store: TieredStore) -> None:
        """Close a store before the test is over."""
        store.close()
        at = self.stores.index(store)
        del self.stores[at], self.backends[at]

    def close(self) -> None:
        for store in self.stores:
            store.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """After every test, each store that it made is looked at: see invariants.py."""
    bench = Bench()
    yield bench
    try:
        for store in bench.stores:
            check(store, patience=1.0, whole=False)
    finally:
        bench.close()


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few chunks the lowest tier holds, they are taken over in the background, one by one."""
    monkeypatch.setattr(loading, "FEW", 0)
    monkeypatch.setattr(loading, "_STEP", 1)
    monkeypatch.setattr(loading, "_RETRY", 0.01)


@pytest.fixture
def slow(bench: Bench, in_the_background: None) -> Iterator[Slow]:
    """A backend of twenty chunks that lists them no faster than it is told to."""
    slow = Slow(bench, 20)
    yield slow
    slow.allow()  # whatever the test did, no thread is left behind


@pytest.fixture
def engine() -> Iterator[SharedEngine]:
    yield shared_engine(NAME)
    forget_engine(NAME)


@pytest.fixture
def host(bench: Any, engine: SharedEngine) -> Callable[..., TieredStore]:
    """Opens a store of a few chunks of memory over the engine."""

    def make(
        capacity: int = 1000, write: Any = None, above: Any = None, shared: Any = None, **options: Any
    ) -> TieredStore:
        edge = {name: options.pop(name) for name in ("deadline", "revalidate") if name in options}
        edge.setdefault("deadline", PATIENCE)
        top = above or bench.weighed()
        below = shared or SharedReference(NAME)
        store = TieredStore(
            [
                TierConfig("ram", top, capacity, Lru(capacity, time.monotonic)),
                TierConfig("pool", below, None, None, write, **edge),
            ],
            **{"back_pressure": PATIENCE, "stall": PATIENCE, "close_timeout": PATIENCE, **options},
        )
        bench.stores.append(store)
        bench.backends.append([top])
        return store

    return make
