"""EVI: what leaves a full backend, in which order, and that nothing leaves one that is not full."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from lms_conformance.chunks import KIB, MIB, Chunk
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_tiers.errors import CapacityError

CAPACITY = 16 * MIB
SIZE = MIB


class Order:
    """Keys by the declared policy, next victim first."""

    def __init__(self, policy: str | None) -> None:
        self.lru = policy == "lru"
        self.keys: list[str] = []
        self.gone = 0

    def put(self, k: str) -> None:
        """It is the newest, or as old as it was."""
        if k in self.keys:
            if not self.lru:
                return
            self.keys.remove(k)
        self.keys.append(k)

    def hit(self, k: str) -> None:
        """It was used."""
        if self.lru:
            self.keys.remove(k)
            self.keys.append(k)

    def settle(self, held: Iterable[str], least: int) -> None:
        """What is held must be the end of the order; then forget what left."""
        there = set(held)
        gone = [k for k in self.keys if k not in there]
        stayed = [k for k in self.keys if k in there]
        expect(
            self.keys == gone + stayed,
            f"victims in the policy's order; from the next victim on: {' '.join(self.keys)}",
            f"gone: {' '.join(gone) or 'none'}; stayed: {' '.join(stayed)}",
        )
        expect(len(stayed) >= min(least, len(self.keys)), f"at least {least} chunks to stay", len(stayed))
        self.keys = stayed
        self.gone += len(gone)


def chunk_of(k: str) -> Chunk:
    """What is put under ``k<number>``."""
    return Chunk(8 * int(k[1:]) + 3, SIZE)


def fits_of(trial: Trial) -> int:
    """How many chunks certainly stay: half of what the capacity divides into."""
    return trial.harness.holds(CAPACITY) // SIZE // 2


def put_in(backend: Subject, order: Order, k: str) -> None:
    """On both."""
    backend.put(k, chunk_of(k))
    backend.flush()
    order.put(k)


@prop("EVI-01", "The newest chunk is never the victim of its own put.", needs=["policy", "capacity"], marks=["evicted"])
def _newest(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    for i in range(3 * trial.harness.holds(CAPACITY) // SIZE):
        backend.put(f"k{i}", chunk_of(f"k{i}"))
        backend.expect_chunk(f"k{i}", chunk_of(f"k{i}"), "the chunk just put")
    if not backend.contains("k0"):
        trial.mark("evicted")


def _accesses() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 40), min_size=1, max_size=12)


@prop(
    "EVI-02",
    "Chunks leave in the order of the declared policy.",
    needs=["policy", "capacity"],
    given=_accesses,
    weight=0.5,
    marks=["evicted"],
)
def _order(trial: Trial, accesses: list[int]) -> None:
    backend = trial.open(capacity=CAPACITY)
    order, fits = Order(trial.caps.policy), fits_of(trial)
    fresh = 2 * fits
    for i in range(fresh):
        put_in(backend, order, f"k{i}")
    order.settle(backend.keys(), fits)
    for access in accesses:
        if access % 4 == 0:
            for _ in range(2):
                put_in(backend, order, f"k{fresh}")
                fresh += 1
        else:
            k = order.keys[access % len(order.keys)]
            backend.expect_chunk(k, chunk_of(k))
            backend.flush()
            order.hit(k)
        order.settle(backend.keys(), fits)
    if order.gone:
        trial.mark("evicted")


@prop(
    "EVI-03",
    "The order outlives a restart: after reopening, the least recently used chunks leave first.",
    needs=["policy", "capacity", "persistent"],
    marks=["evicted after reopening"],
)
def _restart(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    order, fits = Order(trial.caps.policy), fits_of(trial)
    for i in range(fits):
        put_in(backend, order, f"k{i}")
    for i in range(0, fits, 2):
        backend.expect_chunk(f"k{i}", chunk_of(f"k{i}"))
        order.hit(f"k{i}")
    order.settle(backend.keys(), fits)
    backend.flush()
    backend.close()
    again = trial.reopen(backend)
    order.settle(again.keys(), fits)
    for i in range(fits, 3 * fits):
        put_in(again, order, f"k{i}")
        order.settle(again.keys(), fits)
    if order.gone:
        trial.mark("evicted after reopening")


@prop("EVI-04", "Nothing is evicted while there is room.", needs=["evicts"])
def _room(trial: Trial) -> None:
    backend = trial.open(capacity=64 * MIB)
    model: dict[str, Chunk] = {}
    with trial.quiet(
        "for i in range(300):\n    backend.put(Chunk(i, 8192).message(key(f'k{i % 200}')), Chunk(i, 8192).data())"
    ):
        for i in range(300):
            model[f"k{i % 200}"] = Chunk(i, 8 * KIB)
            backend.put(f"k{i % 200}", Chunk(i, 8 * KIB))
        backend.flush()
        backend.expect_model(model)


@prop(
    "EVI-05",
    "Where `evicts` is not declared nothing leaves without a remove, even when it is full.",
    needs=["!evicts"],
    marks=["put at full"],
)
def _undeclared(trial: Trial) -> None:
    backend = trial.open(capacity=16 * MIB)
    if not trial.harness.takes_capacity:
        trial.cannot("put at full", "the harness opens it without a capacity")
    model: dict[str, Chunk] = {}
    code = "for i in range(400):\n    c = Chunk(8 * i + 3, 65536)\n    backend.put(c.message(key(f'k{i}')), c.data())"
    with trial.quiet(code):
        for i in range(400):
            try:
                backend.put(f"k{i}", Chunk(8 * i + 3, 64 * KIB))
            except CapacityError:
                trial.mark("put at full")
                break
            model[f"k{i}"] = Chunk(8 * i + 3, 64 * KIB)
        backend.expect_model(model)


@prop("EVI-06", "What was evicted is a clean miss, and can be put again.", needs=["evicts", "capacity"])
def _miss(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    count = 3 * trial.harness.holds(CAPACITY) // SIZE
    with trial.quiet(f"for i in range({count}):\n    backend.put(Chunk(8 * i + 3, {SIZE}).message(key(f'k{{i}}')), …)"):
        for i in range(count):
            backend.put(f"k{i}", chunk_of(f"k{i}"))
        backend.flush()
        listed = set(backend.keys())
    gone = [f"k{i}" for i in range(count) if f"k{i}" not in listed]
    expect(gone, "some of three times the capacity to have been evicted", "all listed")
    for k in gone[:3]:
        backend.expect_absent(k, "it was evicted: it is not listed")
    for k in gone[:3]:
        backend.put(k, Chunk(5, 100))
        backend.expect_chunk(k, Chunk(5, 100), "the chunk put again after its eviction")
