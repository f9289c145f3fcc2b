"""What the scheduler is told: events and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lms_conformance.adapters.vllm_tier.drive import name

from tests.doors.vllm.conftest import ROW, Open, metrics_of

LMDB = "lmdb:{}?capacity=256MiB"


def _key(number: int) -> Any:
    from lms_tiers import OpaqueKey

    return OpaqueKey(name(number).hex())


def _number(key: bytes) -> int:
    return int.from_bytes(key[:-4], "big")


def told(drive: Any) -> list[tuple[list[int], bool]]:
    return [([_number(key) for key in event.keys], event.removed) for event in drive.tier.take_events()]


def test_chunks_are_told_of_when_stored_and_when_they_leave(open_tier: Open) -> None:
    drive = open_tier(f"cpu?capacity={3 * ROW}B")
    seen: list[tuple[int, bool]] = []

    def present() -> set[int]:
        seen.extend((key, gone) for keys, gone in told(drive) for key in keys)
        return {key for key, gone in dict(seen).items() if not gone}

    drive.store_rows([1, 2])
    drive.until(lambda: present() == {1, 2})
    drive.store_rows([3, 4])
    held = {key for key in range(5) if drive.store.contains(drive.tier._store.key(_key(key)))}
    assert len(held) < 4
    drive.until(lambda: present() == held)


def test_an_event_says_where_and_whose_it_is_and_that_a_removal_follows(open_tier: Open) -> None:
    drive = open_tier()
    drive.store_rows([1])
    events: list[Any] = []

    def any_told() -> bool:
        events.extend(drive.tier.take_events())
        return bool(events)

    drive.until(any_told)
    event = events[0]
    assert (event.medium.value, event.removed, event.locality.value, event.ownership) == (
        "STORAGE",
        False,
        "LOCAL",
        "lms",
    )
    assert event.removal_expected


def test_what_a_warm_store_holds_is_told_of_first(open_tier: Open, tmp_path: Path) -> None:
    device = LMDB.format(tmp_path / "kv")
    first = open_tier(device)
    first.store_rows([1, 2])
    first.close()
    other = open_tier(device, dtype="float16")
    other.store_rows([9])
    other.close()
    again = open_tier(device)
    seen: list[tuple[list[int], bool]] = []

    def any_told() -> bool:
        seen.extend(told(again))
        return bool(seen)

    again.until(any_told)
    assert [(sorted(keys), gone) for keys, gone in seen] == [([1, 2], False)]


@pytest.mark.parametrize(("globally", "here"), [(False, True), (True, False)])
def test_nothing_is_told_where_events_are_off(open_tier: Open, globally: bool, here: bool) -> None:
    drive = open_tier(events=globally, options={"enable_kv_events": here})
    drive.store_rows([1])
    inventory = drive.tier._inventory
    drive.close()  # the store has told all it has to tell
    assert inventory._changes == inventory._early == []


def test_every_metric_that_is_told_was_defined(open_tier: Open) -> None:
    from lms_tiers.doors.vllm import LMSTier

    drive = open_tier()
    drive.store_rows([1, 2])
    drive.load_rows([1, 7], [3, 4])
    taken: dict[str, float] = {}

    def all_told() -> bool:
        stats = drive.tier.get_stats()
        if stats is not None:
            values = metrics_of(stats)
            taken.update({n: taken.get(n, 0) + v if n.endswith("_chunks") else v for n, v in values.items()})
        return "vllm:kv_offload_lms_used_bytes" in taken

    drive.until(all_told)
    assert taken["vllm:kv_offload_lms_stored_chunks"] == 2
    assert taken["vllm:kv_offload_lms_loaded_chunks"] == taken["vllm:kv_offload_lms_failed_load_chunks"] == 1
    assert taken.keys() <= LMSTier.build_metric_definitions({}).keys()
