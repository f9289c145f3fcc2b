"""KeyboardInterrupt anywhere: raised once at every opcode of every call, the store is whole and goes on working."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from lms_conformance.shared import SharedReference, forget_engine

from lms_tiers.errors import LmsTiersError
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions
from lms_tiers.policies.base import RemoveReason
from lms_tiers.policies.lru import Lru
from lms_tiers.policies.s3fifo import S3Fifo
from lms_tiers.tiered.watch.events import EventKind
from tests.depth import some
from tests.tiered.conftest import Weighed
from tests.tiered.interrupts import interrupted
from tests.tiered.invariants import check, contradictions
from tests.tiered.slow import Slow

#: Every so many opcodes are interrupted; 1 means all. A prime, so that runs over many shapes meet different ones.
STRIDE = int(os.environ.get("STRIDE", "307"))

#: Opcodes of one call after which it only repeats itself: one that waits for a deletion looks again and again.
LONGEST = 5000

KEYS = 5

#: Of the engine that stores share.
ENGINE = "interrupts"

#: Bytes of a page of an arena.
PAGE = 4096

#: Where the interrupt meets a generator that is being let go, Python says so and goes on.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Kept(Weighed):
    """Survives its store, as far as that is told; notes what it held when it was closed."""

    capabilities = replace(Weighed.capabilities, persistent=True)
    at_closing: frozenset[str] | None = None

    def save_state(self, state: bytes) -> None:
        self.state = state

    def close(self) -> None:
        if self.at_closing is None:
            self.at_closing = frozenset(self._held)
        super().close()


@dataclass
class Shape:
    """What a store is made of; `sick` names the operation of the top tier that fails once after it was carried out.

    `pinned`: the top tier is an arena, where a chunk takes a page. `shared`: below is an engine that others use too.
    `loading`: the lowest tier is being taken over in the background, and has told of two chunks.
    """

    capacities: tuple[int, ...]
    sick: str | None = None
    policy: Any = Lru
    write: str = "back"
    pinned: bool = False
    shared: bool = False
    loading: bool = False


SHAPES = {
    "one tier, evicting": Shape((350,)),
    "one tier, another policy": Shape((350,), policy=S3Fifo),
    "one tier, a put that fails": Shape((350,), sick="put"),
    "one tier, a deletion that fails": Shape((350,), sick="remove_many"),
    "two tiers, evicting": Shape((250, 450)),
    "two tiers, all below": Shape((250, 4000), write="through"),
    "two tiers, a read that fails": Shape((250, 4000), sick="get"),
    "an arena, evicting": Shape((3 * PAGE,), pinned=True),
    "an arena over memory": Shape((3 * PAGE, 4000), pinned=True),
    "over a shared engine": Shape((250,), shared=True),
    "being taken over": Shape((250, 4000), loading=True),
}

#: Calls that wait for what is being taken over.
WAITING = ("flush", "resize", "clear")


def tensor(bench: Any) -> torch.Tensor:
    return torch.frombuffer(bench.data(9), dtype=torch.uint8)


def view(bench: Any, store: Any) -> None:
    with store.view(bench.key(0)) as lent:
        assert lent is None or len(b"".join(lent.buffers)) == 100


def get_many_into(bench: Any, store: Any) -> None:
    """What is answered is there, whole."""
    buffers = [bytearray(100) for _ in range(KEYS)]
    found = store.get_many_into([(bench.key(i), [buffer]) for i, buffer in enumerate(buffers)])
    for i, meta in enumerate(found):
        assert meta is None or buffers[i] in (bench.data(i + 1), bench.data(9, 40) + bytes(60), bench.data(9)), i


def put_from(bench: Any, store: Any) -> None:
    source = LMSLocalBackend()
    for i in (1, 9):
        bench.put(source, i, 9, 40)
    assert store.put_from([bench.meta(i, 40) for i in (1, 8, 9)], source) == [True, False, True]


def resize(bench: Any, store: Any) -> None:
    store.resize(0, 2 * store._h.tiers[0].need(100) + 40, timeout=30.0)


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "put": lambda bench, store: bench.put(store, 9, 9),
    "put over": lambda bench, store: bench.put(store, 1, 9),
    "put_many": lambda bench, store: store.put_many([(bench.meta(i, 40), bench.data(9, 40)) for i in (1, 9)]),
    "put_tensor": lambda bench, store: store.put_tensor(bench.meta(9, 100), tensor(bench)),
    "get": lambda bench, store: bench.get(store, KEYS - 1),
    "get below": lambda bench, store: bench.get(store, 0),
    "get_many": lambda bench, store: store.get_many([bench.key(i) for i in range(KEYS)]),
    "get_into": lambda bench, store: store.get_into(bench.key(0), bytearray(100)),
    "get_tensor": lambda bench, store: store.get_tensor(bench.key(0)),
    "get_many_into": get_many_into,
    "put_from": put_from,
    "view": view,
    "remove": lambda bench, store: store.remove(bench.key(1)),
    "remove the last": lambda bench, store: store.remove(bench.key(KEYS - 1)),
    "flush": lambda bench, store: store.flush(30.0),
    "drain": lambda bench, store: store.drain(30.0),
    "resize": resize,
    "pin": lambda bench, store: store.pin([bench.key(KEYS - 1)], 0.0),
    "pin_each": lambda bench, store: store.pin_each([bench.key(KEYS - 1)], 1e-9, holder="a"),
    "unpin_each": lambda bench, store: store.unpin_each([bench.key(KEYS - 1)], holder="a"),
    "info": lambda bench, store: store.info(bench.key(KEYS - 1)),
    "clear": lambda bench, store: store.clear(30.0),
}


def made(bench: Any, shape: Shape, clock: Any) -> Any:
    """A store of the shape that has been put `KEYS` chunks, with its movers at rest."""
    backends: list[Any] = [bench.weighed() for _ in shape.capacities]
    if shape.pinned:
        backends[0] = PinnedBackend(shape.capacities[0], PinnedOptions(pin="off", page=PAGE, threads=1))
    if shape.sick:
        backends[0] = FaultyBackend(backends[0])
    if shape.loading:
        slow = Slow(bench, KEYS, first=1)
        backends[-1] = slow.backend
        slow.allow(2)
    policies: list[Any] = [shape.policy(capacity, clock) for capacity in shape.capacities]
    capacities: list[int | None] = [*shape.capacities]
    if shape.shared:
        forget_engine(ENGINE)
        backends.append(SharedReference(ENGINE, timeout=60.0))
        policies.append(None)
        capacities.append(None)
    store = bench.store(
        *capacities, backends=backends, policies=policies, clock=clock, write=shape.write,
        back_pressure=0.02, stall=60.0, patience=5.0,
    )  # fmt: skip
    if shape.loading:
        bench.until(lambda: len(store._h.index) == 2)
        store.slow = slow
        return store
    for i in range(KEYS):
        bench.put(store, i, i + 1)
    store.drain(30.0)
    if shape.sick:
        backends[0].inject(shape.sick, Fault.FAIL_AFTER, times=1, error=RuntimeError)
    return store


def works(bench: Any, store: Any, name: str, shape: Shape) -> None:
    """The same call succeeds, no chunk is a wrong one, all of the capacity can be used, and cleared."""
    for tier in store._h.tiers:
        getattr(tier.backend, "heal", lambda: None)()
    OPERATIONS[name](bench, store)
    for i in (*range(KEYS), 9):
        assert bench.get(store, i) in ({i + 1, 9, None} if i in (1, 9) else {i + 1, None}), i
    check(store)
    store.clear(30.0)
    assert [tier.used for tier in store._h.tiers] == [0] * len(store._h.tiers)
    top = store._h.tiers[0]
    each = top.need(100)
    many, left = top.budget // each, dict(top.evicted)
    for i in range(many):
        bench.put(store, 100 + i, i)
    assert [bench.get(store, 100 + i) for i in range(many)] == list(range(many))
    assert (top.used, top.evicted) == (many * each, left), "room is lost"
    check(store)


def interrupt(bench: Any, shape: Shape, name: str, at: int, clock: Any) -> bool:
    """Interrupt a call of a new store at opcode `at`; False where it has no so many."""
    store = made(bench, shape, clock)
    if shape.loading and name in WAITING:
        store.slow.allow()
    with interrupted(at) as interrupt, contextlib.suppress(LmsTiersError):
        OPERATIONS[name](bench, store)
    try:
        if shape.loading:
            with store._h.lock:
                wrong = contradictions(store)
            assert not wrong, "\n".join(wrong)
            store.slow.allow()
        check(store)
        works(bench, store, name, shape)
    except BaseException as error:
        error.add_note(f"{name} interrupted at opcode {at}, {interrupt.where or 'which it does not reach'}")
        raise
    bench.done(store)
    return bool(interrupt.where)


@pytest.mark.usefixtures("in_the_background")
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_interrupted_at_any_opcode_leaves_a_whole_store(bench: Any, clock: Any, shape: str, name: str) -> None:
    at = random.Random(f"{shape}{name}").randrange(STRIDE) + 1
    while interrupt(bench, SHAPES[shape], name, at, clock) and at < LONGEST:
        at += STRIDE
    assert at > STRIDE or STRIDE > 1, "nothing was interrupted"


class Torn(Lru):
    """Loses all it knows where an interrupt meets it as a key leaves."""

    interrupted = False

    def on_remove(self, key: str, reason: RemoveReason) -> None:
        if not self.interrupted:
            self.interrupted = True
            self._queue.end.newer = self._queue.end
            raise KeyboardInterrupt
        super().on_remove(key, reason)


def test_a_policy_interrupted_while_its_tier_is_taken_over_begins_anew(bench: Any, slow: Slow) -> None:
    store = bench.store(4000, backends=[slow.backend], policies=[Torn(4000, time.monotonic)])
    slow.allow(10)
    bench.until(lambda: len(store._h.index) == 10)
    with pytest.raises(KeyboardInterrupt):
        store.remove(bench.key(3))
    tier = store._h.tiers[0]
    assert not tier.policy.policy.interrupted, "it is another one"
    assert list(tier.policy.victims(1 << 20, ())) == [bench.key(i).to_string() for i in range(10) if i != 3]
    slow.allow()
    check(store)
    assert [bench.get(store, i) for i in range(20)] == [None if i == 3 else i for i in range(20)]


OVERWRITES: dict[str, Callable[[Any, Any], None]] = {
    "put": lambda bench, store: bench.put(store, 1, 9),
    "put_many": lambda bench, store: store.put_many([(bench.meta(i, 40), bench.data(9, 40)) for i in (0, 1)]),
}


@pytest.mark.parametrize("name", some(OVERWRITES, "put".__eq__))
def test_an_overwrite_interrupted_before_the_backend_was_called_keeps_the_old_chunk(bench: Any, name: str) -> None:
    at = 1
    kept, doubted = 0, []
    while True:
        store = bench.store(1000, 4000)
        for i in range(2):
            bench.put(store, i, i + 1)
        top = bench.weights()[0]
        begun: list[int] = []
        put = top.put
        top.put = lambda meta, data, begun=begun, put=put: (begun.append(1), put(meta, data))[1]
        with interrupted(at) as interrupt:
            OVERWRITES[name](bench, store)
        found = [bench.get(store, i) for i in range(2)]
        if not begun and found != [1, 2]:
            doubted.append(f"{interrupt.where}: {found}")
        assert found[0] in (1, 9, None)
        assert found[1] in (2, 9, None)
        kept += not begun
        bench.done(store)
        if not interrupt.where:
            break
        at += min(STRIDE, 3)
    assert kept > 50
    assert len(doubted) <= 8, "more than the steps of the call itself"


def test_many_interrupts_of_one_store_lose_no_room(bench: Any) -> None:
    size, capacity = 64 << 10, 16 << 20
    store = bench.store(capacity)
    rng = random.Random(7)
    data = bench.data(1, size)
    for n in range(200):
        with interrupted(rng.randrange(1, 1500)):
            store.put(bench.meta(rng.randrange(400), size), data)
        if n % 20 == 0:
            check(store)
    check(store)
    for i in range(capacity // size):
        store.put(bench.meta(1000 + i, size), data)
    assert len(store.list_keys()) == capacity // size
    store.clear(30.0)
    assert store._h.tiers[0].used == 0


#: Stores to close: what is dirty has to go down, and what is told has to arrive.
CLOSED = {"one tier": (350,), "two tiers": (450, 4000), "over a shared engine": (350,)}


@pytest.mark.parametrize("shape", CLOSED)
def test_a_close_interrupted_at_any_opcode_is_finished_by_the_next_one(bench: Any, clock: Any, shape: str) -> None:
    at = random.Random(shape).randrange(min(STRIDE, 3)) + 1
    reached = True
    while reached:
        reached = close(bench, clock, shape, at)
        at += min(STRIDE, 3)


def close(bench: Any, clock: Any, shape: str, at: int) -> bool:
    """Interrupt the closing of a new store at opcode `at`; False where it has no so many."""
    told: list[Any] = []
    backends: list[Any] = [bench.weighed() for _ in CLOSED[shape]]
    if len(backends) > 1:
        backends[1].__class__ = Kept
    capacities: list[int | None] = [*CLOSED[shape]]
    policies: list[Any] = [Lru(capacity, clock) for capacity in CLOSED[shape]]
    if "shared" in shape:
        forget_engine(ENGINE)
        backends.append(SharedReference(ENGINE, timeout=60.0))
        policies.append(None)
        capacities.append(None)
    store = bench.store(
        *capacities, backends=backends, policies=policies, clock=clock, on_events=told.extend, close_timeout=30.0
    )
    for i in range(3):
        bench.put(store, i, i + 1)
    with interrupted(at) as interrupt:
        store.close()
    try:
        bench.done(store)
        assert all(not mover._thread or not mover._thread.is_alive() for mover in store._movers)
        assert all(backend._closed for backend in backends)
        assert {event.key for event in told if event.kind is EventKind.STORED} >= {
            bench.key(i).to_string() for i in range(3)
        }
        if len(CLOSED[shape]) > 1:
            assert backends[1].at_closing == {bench.key(i).to_string() for i in range(3)}
            assert backends[1].state is not None
    except BaseException as error:
        error.add_note(f"interrupted at opcode {at}, {interrupt.where or 'which it does not reach'}")
        raise
    return bool(interrupt.where)
