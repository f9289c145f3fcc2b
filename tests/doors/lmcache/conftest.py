"""Adapters over stores of all kinds, against LMCache where it is installed, else against the double of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lms_tiers.interface import LMSBackendInterface
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import FaultyBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from tests.doors.lmcache import double

Open = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def lmcache() -> Iterator[None]:
    """LMCache, or the double in its place for this module's tests."""
    if importlib.util.find_spec("lmcache") is not None:
        # All at once, outside any test: some start what stays (threads, descriptors) where they are first imported.
        importlib.import_module("lmcache.v1.distributed.l2_adapters.factory").load_all_adapters()
        yield
        return
    double.install()
    try:
        yield
    finally:
        for name in [*double.PLACES, *(n for n in sys.modules if n.startswith("lms_tiers.doors.lmcache"))]:
            sys.modules.pop(name, None)


@pytest.fixture
def adapter(lmcache: None) -> Iterator[Open]:
    """Open adapters: ``adapter("cpu", workers=2)``; closed at the end."""
    with ExitStack() as stack:

        def opened(device: str = "cpu?capacity=64MiB", **params: Any) -> Any:
            from lms_tiers.doors.lmcache import L2Adapter

            clock = {"clock": params.pop("clock")} if "clock" in params else {}
            made = L2Adapter({"device": device, **params}, **clock)
            stack.callback(made.close)
            return made

        yield opened


@pytest.fixture
def faulty(adapter: Open, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, FaultyBackend]]:
    """An adapter over one tier that takes orders to fail."""

    def opened(
        capacity: int | None = None, inner: LMSBackendInterface | None = None,
        lower: LMSBackendInterface | None = None, threshold: int = 10**6, **params: Any,
    ) -> tuple[Any, FaultyBackend]:  # fmt: skip
        backend = FaultyBackend(inner or LMSLocalBackend())
        tiers = [TierConfig("faulty", backend, capacity, Lru(capacity or sys.maxsize, lambda: 0.0))]
        if lower is not None:
            tiers.append(TierConfig("lower", lower, None, Lru(sys.maxsize, lambda: 0.0)))
        place = importlib.import_module("lms_tiers.doors.lmcache.place")
        monkeypatch.setattr(
            place, "open_device",
            lambda spec, on_events: TieredStore(
                tiers, on_events=on_events, breaker_threshold=threshold, breaker_cooldown=60.0
            ),
        )  # fmt: skip
        return adapter("cpu", **params), backend

    return opened
