"""Per-key linearizability of one store over a shared engine that evicts, answers late, hangs or is not there.

For each key `put`, `get` and `remove` of *this* store are linear, with evictions as the only other thing that happens.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from lms_conformance.history import History
from lms_conformance.shared import SharedEngine, SharedReference, forget_engine, shared_engine

from lms_tiers.errors import OutcomeUnknownError
from lms_tiers.messages import LMSMemoryObj
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.paths import sender
from lms_tiers.tiered.paths.beyond import Beyond
from lms_tiers.tiered.paths.moves import Moves
from lms_tiers.tiered.state.edge import Edge
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from tests.depth import drawn
from tests.tiered.invariants import check as whole
from tests.tiered.test_linearizable import KINDS, OPERATIONS, THREADS, explained, preempted, run_threads, sluggish, step

#: Private capacities, keys, the engine's capacity, whether chunks may leave, what befalls the engine.
SHAPES: dict[str, tuple[tuple[int, ...], int, int | None, bool, tuple[str, ...]]] = {
    "all fits there": ((250,), 4, None, False, ()),
    "two private tiers, all fits there": ((250, 350), 5, None, False, ()),
    "the engine evicts by its budget": ((250,), 6, 450, True, ()),
    "the engine evicts at any moment": ((250,), 4, None, True, ("evict",)),
    "the engine is sick": ((250,), 4, None, True, ("evict", "late", "down", "hang")),
}

SICK = {"late", "down", "hang"}

_names = itertools.count()


def befall(
    engine: SharedEngine, rng: random.Random, what: tuple[str, ...], keys: list[str], over: threading.Event
) -> None:
    """What happens to an engine while a program runs: one thing after the other, each over again."""
    while what and not over.is_set():
        match rng.choice(what):
            case "evict":
                engine.evict(rng.choice(keys))
            case "late":
                engine.late = True
                over.wait(1e-3)
                engine.late = False
                engine.deliver()
            case "down":
                engine.down = True
                over.wait(1e-3)
                engine.down = False
            case "hang":
                engine.answering.clear()
                over.wait(1e-3)
                engine.answering.set()
        over.wait(1e-4)
    engine.deliver()


def run_program(bench: Any, shape: str, seed: int) -> str:
    """What is wrong with one drawn program's answers; nothing where one order of its calls explains them."""
    capacities, keys, most, evicts, what = SHAPES[shape]
    rng = random.Random(seed)
    name = f"linearizable-{next(_names)}"
    engine = shared_engine(name, most)
    tops = [sluggish(bench.weighed(), random.Random(seed + i)) for i in range(len(capacities))]
    backend = sluggish(SharedReference(name, timeout=60.0), random.Random(seed + 7))
    values = iter(range(1, 1 << 20))
    program = [
        [(rng.choice(KINDS), rng.randrange(keys), next(values), rng.choice([60, 100, 120])) for _ in range(OPERATIONS)]
        for _ in range(THREADS)
    ]
    history = History()
    over = threading.Event()
    texts = [bench.key(i).to_string() for i in range(keys)]
    chaos = threading.Thread(target=befall, args=(engine, random.Random(seed), what, texts, over))
    store: TieredStore | None = None
    try:
        with preempted(seed, rng.choice([0.002, 0.01, 0.03])):
            store = TieredStore(
                [
                    *(
                        TierConfig(f"t{i}", top, capacity, Lru(capacity, time.monotonic))
                        for i, (top, capacity) in enumerate(zip(tops, capacities, strict=True))
                    ),
                    TierConfig("pool", backend, None, None, rng.choice([None, "back"]), deadline=0.02 if SICK & set(what) else 60.0),
                ],
                back_pressure=0.02 if what else 30.0, stall=60.0, breaker_cooldown=0.002, breaker_longest=0.01,
                close_timeout=0.1 if what else 30.0,
            )  # fmt: skip
            chaos.start()
            wrong = run_threads(bench, store, history, program, perform)
        over.set()
        chaos.join(60)
        for i in range(keys):
            began = history.now()
            history.add(9, "get", str(i), bench.get(store, i), began)
        store.drain(30.0)
        whole(store)
    finally:
        over.set()
        engine.answering.set()
        if store is not None:
            store.close()
        forget_engine(name)
    if wrong:
        return f"raised: {wrong}"
    for calls in history.by_key().values():
        if SICK & set(what):
            # A sick tier may answer nothing for a while and have the chunk again later: misses prove nothing.
            calls = [c for c in calls if not (c.kind in ("get", "contains") and not c.value)]
        if not explained(calls, evicts):
            return "no order of these calls explains the answers:\n" + "\n".join(map(str, calls))
    return ""


def perform(bench: Any, store: Any, history: History, number: int, kind: str, i: int, value: int, size: int) -> None:
    """As `step`; a removal that the engine did not confirm is one all the same: this store has forgotten the key."""
    began = history.now()
    try:
        step(bench, store, history, number, kind, i, value, size)
    except OutcomeUnknownError:
        assert kind == "remove"
        history.add(number, "remove", str(i), None, began)


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in doubt stays so: the late write is carried out whenever the machine comes to it."""
    monkeypatch.setattr(sender, "DOUBT", 1e6)


@pytest.mark.parametrize("seeds", drawn(5, 60))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_answer_is_explained_by_one_order_of_the_calls(bench: Any, shape: str, seeds: range) -> None:
    for seed in seeds:
        wrong = run_program(bench, shape, seed)
        assert not wrong, f"{shape}, seed {seed}: {wrong}"


# -- planted bugs: each must be caught --------------------------------------------------------------------------------


def without_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Edge, "hides", lambda self, text: False)


def indexing_what_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    get = Beyond.get
    seen: dict[tuple[int, str], LMSMemoryObj] = {}

    def remembered(self: Beyond, keys: Any, texts: Any, contexts: Any) -> list[LMSMemoryObj | None]:
        found = get(self, keys, texts, contexts)
        for text, obj in zip(texts, found, strict=True):
            if obj is not None:
                seen.setdefault((id(self), text), obj)
        return [seen.get((id(self), text)) for text in texts]

    monkeypatch.setattr(Beyond, "get", remembered)


def promoting_older_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moves, "_newest", lambda self, text, entry: True)


@pytest.mark.deep
@pytest.mark.parametrize("plant", [without_tombstones, indexing_what_it_saw, promoting_older_reads])
def test_a_planted_bug_is_caught(bench: Any, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Any], None]) -> None:
    plant(monkeypatch)
    for seed in range(400):
        with contextlib.suppress(AssertionError):  # of the store's invariants, which some bugs break as well
            if run_program(bench, "all fits there", seed):
                return
            continue
        return
    pytest.fail("400 programs did not show it")
