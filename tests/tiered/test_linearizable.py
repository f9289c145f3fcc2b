"""Per-key linearizability: drawn programs on four threads, movers and all preempted between opcodes of `tiered/`."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from lms_conformance.history import Call, History, linearizable

import lms_tiers.tiered
from lms_tiers.errors import CapacityError, LmsTiersError, StorageUnavailableError
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from tests.depth import drawn
from tests.tiered.straight import Straight

TIERED = str(Path(lms_tiers.tiered.__file__).parent)

THREADS = 4

#: Seconds; 0 gives the interpreter's lock away as well.
NAPS = (0.0, 0.0, 0.0, 0.0, 1e-5, 1e-4)
OPERATIONS = 6

KINDS = [
    "put", "put", "get", "get", "get", "contains", "remove", "get_into", "view", "put_many", "get_many",
    "get_many_into", "put_from",
]  # fmt: skip

#: (capacities, keys, faults): where everything fits below nothing may ever be missed; where not, a miss means evicted.
SHAPES: dict[str, tuple[tuple[int, ...], int, bool, bool]] = {
    "two tiers, all fits below": ((250, 4000), 3, False, False),
    "three tiers, all fits below": ((250, 350, 4000), 3, False, False),
    "two tiers, evicting": ((250, 450), 6, True, False),
    "three tiers, evicting": ((250, 350, 450), 7, True, False),
    "one tier, evicting": ((350,), 4, True, False),
    "two tiers, faults": ((250, 4000), 3, True, True),
    "three tiers, faults": ((250, 350, 4000), 3, True, True),
}


@contextlib.contextmanager
def preempted(seed: int, often: float) -> Iterator[None]:
    """Every thread started meanwhile gives way at random between opcodes of `tiered/`."""
    seeds = random.Random(seed)

    def enter_thread(frame: FrameType, event: str, arg: Any) -> Any:
        rng = random.Random(seeds.random())

        def inside(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode" and rng.random() < often:
                time.sleep(rng.choice(NAPS))
            return inside

        def enter(frame: FrameType, event: str, arg: Any) -> Any:
            if frame.f_code.co_filename.startswith(TIERED):
                frame.f_trace_opcodes = True
                return inside
            return None

        sys.settrace(enter)
        return enter(frame, event, arg)

    threading.settrace(enter_thread)
    try:
        yield
    finally:
        threading.settrace(None)


def sluggish(backend: Any, rng: random.Random) -> Any:
    """A backend whose calls take their time on both sides of what they do."""

    def slow(call: Callable[..., Any]) -> Callable[..., Any]:
        def slowly(*args: Any) -> Any:
            time.sleep(rng.choice(NAPS))
            try:
                return call(*args)
            finally:
                time.sleep(rng.choice(NAPS))

        return slowly

    for operation in ("put", "get", "remove"):
        setattr(backend, operation, slow(getattr(backend, operation)))
    return backend


def draw_faults(rng: random.Random, backends: list[FaultyBackend]) -> None:
    for backend in backends:
        for operation in ("get", "put", "put_many", "remove", "remove_many", "get_into", "get_many"):
            fault = rng.choice([Fault.FAIL, Fault.FAIL_AFTER, Fault.SLOW, Fault.NOTHING, None, None])
            if fault is None or (fault is Fault.NOTHING and not operation.startswith("get")):
                continue
            errors: list[Callable[[], BaseException]] = [RuntimeError, OSError, MemoryError]
            if fault is Fault.FAIL:
                errors = [RuntimeError, lambda: StorageUnavailableError("t", "drawn")]
            error = rng.choice(errors)
            probability = rng.choice([0.2, 0.5, 1.0])
            backend.inject(
                operation, fault, times=rng.choice([1, 2, 6, None]), probability=probability, error=error, seconds=1e-3
            )


def run_program(bench: Any, shape: str, seed: int) -> None:
    capacities, keys, _evicts, faults = SHAPES[shape]
    rng = random.Random(seed)
    backends: list[Any] = [
        sluggish(rng.choice([bench.weighed, Straight])(), random.Random(seed + i)) for i in range(len(capacities))
    ]
    if faults:
        backends = [FaultyBackend(backend, seed + i) for i, backend in enumerate(backends)]
        draw_faults(rng, backends)
    history = History()
    values = iter(range(1, 1 << 20))
    program = [
        [
            (rng.choice(KINDS), rng.randrange(keys), next(values), rng.choice([60, 100, 120]))
            for _ in range(OPERATIONS)
        ]
        for _ in range(THREADS)
    ]  # fmt: skip
    options = {} if not faults else {
        "back_pressure": 0.02, "stall": 0.5, "breaker_cooldown": 0.002, "breaker_longest": 0.01, "patience": 0.5,
    }  # fmt: skip
    with preempted(seed, rng.choice([0.002, 0.01, 0.03])):
        store = bench.store(*capacities, backends=backends, **options)
        wrong = run_threads(bench, store, history, program)
    for backend in backends if faults else ():
        backend.heal()
    final = History()
    final.calls = history.calls
    final.clock = history.clock
    for i in range(keys):
        began = final.now()
        final.add(9, "get", str(i), bench.get(store, i), began)
    with contextlib.suppress(LmsTiersError):
        store.drain(1.0 if faults else 60.0)
    weights = [b.inner for b in backends] if faults else backends
    balance = [(weighed.weight, tier.used) for weighed, tier in zip(weights, store._h.tiers, strict=True)]
    store.close()
    assert not wrong, f"{shape}, seed {seed}: {wrong}"
    for weighed, capacity in zip(weights, capacities, strict=True):
        assert weighed.heaviest <= capacity, f"{shape}, seed {seed}: {weighed.heaviest} bytes in a tier of {capacity}"
    if not faults:
        assert all(held == charged for held, charged in balance), f"{shape}, seed {seed}: held, charged: {balance}"
    check(shape, seed, final)
    bench.stores.remove(store)


def run_threads(
    bench: Any, store: Any, history: History, program: list[list[tuple[str, int, int, int]]],
    perform: Callable[..., None] | None = None,
) -> list[str]:  # fmt: skip
    """Each part of the program on a thread of its own, by `perform` in place of `step`; what they raised."""
    wrong: list[str] = []

    def client(number: int) -> None:
        try:
            for kind, i, value, size in program[number]:
                (perform or step)(bench, store, history, number, kind, i, value, size)
        except BaseException as error:  # whatever it is, the test has to see it
            wrong.append(f"thread {number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=client, args=(n,)) for n in range(len(program))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), f"{thread.name} hangs"
    return wrong


def step(bench: Any, store: Any, history: History, number: int, kind: str, i: int, value: int, size: int) -> None:
    began = history.now()
    other = (i + 1) % 3
    match kind:
        case "put":
            with contextlib.suppress(StorageUnavailableError, CapacityError, RuntimeError, OSError):
                bench.put(store, i, value, size)
                history.add(number, "put", str(i), value, began)
        case "put_many":
            with contextlib.suppress(StorageUnavailableError, CapacityError):
                pairs = {i: value, other: value + (1 << 20)}
                store.put_many([(bench.meta(k, size), bench.data(v, size)) for k, v in pairs.items()])
                for k, v in pairs.items():
                    history.add(number, "put", str(k), v, began)
                return
            # How far the batch got is not known: both may have been stored.
            history.add(number, "maybe", str(i), value, began)
            history.add(number, "maybe", str(other), value + (1 << 20), began)
        case "put_from":
            source = LMSLocalBackend()
            pairs = {i: value, other: value + (1 << 20)}
            for k, v in pairs.items():
                bench.put(source, k, v, size)
            with contextlib.suppress(StorageUnavailableError, CapacityError):
                assert store.put_from([bench.meta(k, size) for k in pairs], source) == [True] * len(pairs)
                for k, v in pairs.items():
                    history.add(number, "put", str(k), v, began)
                return
            for k, v in pairs.items():
                history.add(number, "maybe", str(k), v, began)
        case "get_many_into":
            buffers = [bytearray(128), bytearray(128)]
            spoiled: set[int] = set()
            asked = [(bench.key(k), [buffer]) for k, buffer in zip((i, other), buffers, strict=True)]
            metas = store.get_many_into(asked, spoiled=spoiled)
            for n, (k, meta) in enumerate(zip((i, other), metas, strict=True)):
                found = None
                if meta is not None:
                    found = int.from_bytes(buffers[n][:4], "little")
                    assert buffers[n][: meta.length] == bench.data(found, meta.length), "torn bytes"
                    assert n not in spoiled
                else:
                    assert n in spoiled or not any(buffers[n]), "spoiled, and nobody says so"
                history.add(number, "get", str(k), found, began)
        case "get":
            history.add(number, "get", str(i), bench.get(store, i), began)
        case "get_many":
            for k, obj in zip((i, other), store.get_many([bench.key(i), bench.key(other)]), strict=True):
                history.add(number, "get", str(k), bench.value(obj), began)
        case "contains":
            history.add(number, "contains", str(i), int(store.contains(bench.key(i))), began)
        case "get_into":
            buffer = bytearray(128)
            meta = store.get_into(bench.key(i), buffer)
            found = None
            if meta is not None:
                found = int.from_bytes(buffer[:4], "little")
                assert buffer[: meta.length] == bench.data(found, meta.length), "torn bytes"
            history.add(number, "get", str(i), found, began)
        case "view":
            with store.view(bench.key(i)) as view:
                found = None
                if view is not None:
                    data = b"".join(view.buffers)
                    found = int.from_bytes(data[:4], "little")
                    assert data == bench.data(found, len(data)), "torn bytes"
                history.add(number, "get", str(i), found, began)
        case "remove":
            store.remove(bench.key(i))
            history.add(number, "remove", str(i), None, began)


def explained(calls: list[Call], evicts: bool) -> bool:
    """Linearizable with some of the puts of unknown outcome."""
    sure = [c for c in calls if c.kind != "maybe"]
    maybe = [c for c in calls if c.kind == "maybe"]
    for chosen in range(1 << len(maybe)):
        puts = [Call(c.thread, "put", c.key, c.value, c.began, c.ended) for n, c in enumerate(maybe) if chosen >> n & 1]
        if linearizable(sorted([*sure, *puts], key=lambda c: c.began), evicts=evicts):
            return True
    return False


def check(shape: str, seed: int, history: History) -> None:
    _, _, evicts, faults = SHAPES[shape]
    for calls in history.by_key().values():
        if faults:
            # A sick tier may answer nothing for a while and have the chunk again later: misses prove nothing.
            calls = [c for c in calls if not (c.kind in ("get", "contains") and not c.value)]
        if not explained(calls, evicts):
            shown = "\n".join(map(str, calls))
            pytest.fail(f"{shape}, seed {seed}: no order of these calls explains the answers:\n{shown}")


@pytest.mark.parametrize("seeds", drawn(5, 60))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_answer_is_explained_by_one_order_of_the_calls(bench: Any, shape: str, seeds: range) -> None:
    for seed in seeds:
        run_program(bench, shape, seed)
