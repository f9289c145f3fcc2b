"""What the tier is made of, each by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from lms_conformance.adapters.vllm_tier.drive import name

from lms_tiers.doors.vllm.inventory import Inventory
from lms_tiers.doors.vllm.lookups import Lookups
from lms_tiers.namespace import Namespace
from lms_tiers.tiered.watch.events import EventKind, EventReason, TierEvent
from tests.doors.vllm.conftest import PATIENCE

OURS, THEIRS = Namespace(model="ours"), Namespace(model="theirs")


def event(kind: EventKind, key: int, namespace: Namespace = OURS) -> TierEvent:
    return TierEvent(kind, EventReason.REQUEST, "cpu", namespace.key(name(key).hex()).to_string(), 1, 0.0)


def taken(inventory: Inventory) -> list[tuple[list[int], bool]]:
    return [([int.from_bytes(key[:-4], "big") for key in keys], gone) for keys, gone in inventory.take()]


def test_what_changes_during_the_listing_is_told_after_it() -> None:
    inventory = Inventory()
    inventory.observe([event(EventKind.GONE, 1), event(EventKind.STORED, 3)])
    assert taken(inventory) == []
    inventory.begin(OURS, [name(1).hex(), name(2).hex()])
    inventory.observe([event(EventKind.GONE, 2)])
    assert taken(inventory) == [([1, 2], False), ([1], True), ([3], False), ([2], True)]
    assert taken(inventory) == []


def test_only_chunks_of_this_run_that_come_or_go_are_told_of() -> None:
    inventory = Inventory()
    inventory.begin(OURS, ())
    inventory.observe([event(kind, at) for at, kind in enumerate(EventKind) if kind is not EventKind.STATE])
    inventory.observe([event(EventKind.STORED, 50, THEIRS), event(EventKind.GONE, 51, THEIRS)])
    order = [kind for kind in EventKind if kind is not EventKind.STATE]
    told = {order[key]: gone for keys, gone in taken(inventory) for key in keys}
    assert told == {EventKind.STORED: False, EventKind.PROMOTED: False, EventKind.GONE: True}


class Asked:
    """A store that answers when it is let go."""

    def __init__(self, held: set[bytes]) -> None:
        self.held = held
        self.calls: list[list[bytes]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, keys: Sequence[bytes], request: str) -> list[bool]:
        assert self.gate.wait(PATIENCE)
        self.calls.append(list(keys))
        return [key in self.held for key in keys]


Make = Callable[..., tuple[Lookups, Asked, list[float]]]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[tuple[Lookups, Asked]] = []

    def making(held: set[bytes]) -> tuple[Lookups, Asked, list[float]]:
        now = [0.0]
        asked = Asked(held)
        made.append((Lookups("test", asked, 1.0, lambda: now[0]), asked))
        return *made[-1], now

    yield making
    for lookups, asked in made:
        asked.gate.set()
        lookups.close(PATIENCE)


def known(lookups: Lookups, key: bytes, request: str) -> bool:
    while (found := lookups.lookup(key, request)) is None:
        lookups.flush()
        threading.Event().wait(0.001)
    return found


def test_what_one_step_looks_up_is_asked_once_whoever_asks(make: Make) -> None:
    lookups, asked, _ = make({b"a", b"c"})
    for request in ("r", "s"):
        for key in (b"a", b"b", b"c"):
            assert lookups.lookup(key, request) is None
    assert asked.calls == []
    assert [known(lookups, key, "s") for key in (b"a", b"b", b"c")] == [True, False, True]
    assert asked.calls == [[b"a", b"b", b"c"]]


def test_a_key_is_asked_for_although_the_request_that_asked_first_has_ended(make: Make) -> None:
    lookups, asked, _ = make({b"a"})
    lookups.lookup(b"a", "r")
    lookups.lookup(b"a", "s")
    lookups.forget("r")
    assert known(lookups, b"a", "s")
    assert len(asked.calls) == 1


def test_a_key_that_nobody_refers_to_is_not_asked_for_and_nothing_is_kept(make: Make) -> None:
    lookups, asked, _ = make({b"a"})
    lookups.lookup(b"a", "r")
    lookups.forget("r")
    lookups.forget("r")
    lookups.flush()
    assert len(lookups) == 0
    known(lookups, b"b", "s")
    assert asked.calls == [[b"b"]]


def test_an_answer_that_comes_late_belongs_to_nobody(make: Make) -> None:
    lookups, asked, _ = make({b"a"})
    asked.gate.clear()
    lookups.lookup(b"a", "r")
    lookups.flush()
    lookups.forget("r")
    asked.held.clear()  # evicted
    assert lookups.lookup(b"a", "s") is None
    lookups.flush()
    asked.held.add(b"a")
    asked.gate.set()
    assert known(lookups, b"a", "s")
    assert asked.calls == [[b"a"], [b"a"]]


def test_a_look_that_nobody_answers_in_time_is_a_miss_and_stays_one(make: Make) -> None:
    lookups, asked, now = make({b"a"})
    asked.gate.clear()
    assert lookups.lookup(b"a", "r") is None
    lookups.flush()
    now[0] = 0.9
    assert lookups.lookup(b"a", "r") is None
    now[0] = 1.1
    assert lookups.lookup(b"a", "r") is False
    assert lookups.late == 1
    asked.gate.set()
    known(lookups, b"b", "r")
    assert lookups.lookup(b"a", "r") is False
    lookups.forget("r")
    assert known(lookups, b"a", "s")


def test_a_load_that_failed_makes_a_miss_of_what_is_asked_for_just_then(make: Make) -> None:
    lookups, asked, _ = make({b"a"})
    asked.gate.clear()
    lookups.lookup(b"a", "r")
    lookups.flush()
    lookups.missing([b"a", b"never looked up"])
    asked.gate.set()
    known(lookups, b"b", "r")
    assert lookups.lookup(b"a", "r") is False


def test_a_store_that_fails_to_answer_is_a_miss(make: Make, caplog: Any) -> None:
    lookups, asked, _ = make({b"a"})
    asked.held = None  # type: ignore[assignment]  # raises
    assert not known(lookups, b"a", "r")
    assert "stumbled" in caplog.text
