"""Drawn programs on four threads beside the loading of the lowest tier: answers are those of a store loaded before."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from lms_conformance.history import History

from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import ChunkMeta, OpaqueKey
from lms_tiers.tiered.life import loading
from tests.depth import drawn
from tests.tiered.test_linearizable import KINDS, NAPS, OPERATIONS, THREADS, explained, preempted, run_threads, sluggish

#: (capacities, keys, whether chunks may leave, whether the backend fails to tell what it holds now and then); half of
#: the keys are there at the start.
SHAPES: dict[str, tuple[tuple[int, ...], int, bool, bool]] = {
    "one tier, all fits": ((4000,), 3, False, False),
    "two tiers, all fits below": ((250, 4000), 4, False, False),
    "one tier, evicting": ((350,), 4, True, False),
    "two tiers, evicting": ((250, 450), 6, True, False),
    "three tiers, evicting": ((250, 350, 450), 7, True, False),
    "one tier, faults": ((350,), 4, True, True),
    "two tiers, faults": ((250, 450), 6, True, True),
}


@pytest.fixture(autouse=True)
def asked_again_at_once(in_the_background: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_RETRY", 0.0001)
    # Most listings of a tier with faults fail: were they asked for ever more rarely, some drawn run would not end.
    monkeypatch.setattr(loading, "_LONGEST_RETRY", 0.005)


def listing(bench: Any, rng: random.Random, start: dict[int, int], often: float) -> Any:
    """Weighed memory that holds chunks and lists them slowly; so `often` it fails to."""
    backend = bench.weighed()
    for i, value in start.items():
        bench.put(backend, i, value)

    def locate(key: Any) -> ChunkInfo | None:
        obj = type(backend).get(backend, key)
        time.sleep(rng.choice(NAPS))
        if rng.random() < often:
            raise OSError("drawn")
        if obj is None:
            return None
        meta = ChunkMeta(obj.length, obj.fmt, str(obj.dtype).removeprefix("torch."), tuple(obj.shape))
        return ChunkInfo(OpaqueKey(key.to_string()), meta, obj.length)

    def scan() -> Iterator[ChunkInfo]:
        keys = backend.list_keys()
        for at in range(0, len(keys), 2):
            batch = [locate(key) for key in keys[at : at + 2]]
            time.sleep(rng.choice([0, 1e-4, 1e-3]))
            yield from (info for info in batch if info is not None)

    backend.held = lambda: (len(backend._held), backend.weight)
    backend.iter_keys = lambda: iter(backend.list_keys())
    backend.locate, backend.scan = locate, scan
    return sluggish(backend, rng)


def run_program(bench: Any, shape: str, seed: int) -> None:
    capacities, keys, evicts, faults = SHAPES[shape]
    rng = random.Random(seed)
    there = {i: 1_000_000 + i for i in rng.sample(range(keys), keys // 2)}
    backends = [sluggish(bench.weighed(), random.Random(seed + i)) for i in range(len(capacities) - 1)]
    backends.append(listing(bench, random.Random(seed - 1), there, 0.3 if faults else 0.0))
    history = History()
    for i, value in there.items():
        history.add(8, "put", str(i), value, history.now())
    values = iter(range(1, 1 << 20))
    program = [
        [(rng.choice(KINDS), rng.randrange(keys), next(values), rng.choice([60, 100, 120])) for _ in range(OPERATIONS)]
        for _ in range(THREADS)
    ]
    with preempted(seed, rng.choice([0.002, 0.01, 0.03])):
        store = bench.store(
            *capacities, backends=backends, back_pressure=5.0 if faults else 60.0, stall=60.0, breaker_cooldown=0.002
        )
        wrong = run_threads(bench, store, history, program)
        bench.until(lambda: not store.loading)
    for i in range(keys):
        began = history.now()
        history.add(9, "get", str(i), bench.get(store, i), began)
    store.drain(60)
    balance = [(weighed.weight, tier.used) for weighed, tier in zip(backends, store._h.tiers, strict=True)]
    store.close()
    assert not wrong, f"{shape}, seed {seed}: {wrong}"
    for weighed, capacity in zip(backends, capacities, strict=True):
        assert weighed.heaviest <= capacity, f"{shape}, seed {seed}: {weighed.heaviest} bytes in a tier of {capacity}"
    assert all(held == charged for held, charged in balance), f"{shape}, seed {seed}: held, charged: {balance}"
    assert all(tier.policy.name == "lru" and len(tier.policy) == tier.keys for tier in store._h.tiers), (shape, seed)
    for calls in history.by_key().values():
        if faults:
            # A tier that cannot tell what it holds may answer nothing, and have the chunk again later.
            calls = [c for c in calls if not (c.kind in ("get", "contains") and not c.value)]
        if not explained(calls, evicts):
            shown = "\n".join(map(str, calls))
            pytest.fail(f"{shape}, seed {seed}: no order of these calls explains the answers:\n{shown}")
    bench.stores.remove(store)


@pytest.mark.parametrize("seeds", drawn(4, 29))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_answer_beside_a_loading_is_explained_by_one_order_of_the_calls(
    bench: Any, shape: str, seeds: range
) -> None:
    for seed in seeds:
        run_program(bench, shape, seed)
