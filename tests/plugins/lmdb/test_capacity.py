"""The capacity is the file's size on disk, and a tier within `usable_bytes` never sees the file full."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import CapacityError, ConfigError, ValueTooLargeError
from lms_tiers.messages import OpaqueKey
from tests.plugins.lmdb.tier import Tier, on_disk

MIB = 1 << 20


@pytest.mark.parametrize("sync", ["none", "batch", "commit"])
@pytest.mark.parametrize(
    "lengths",
    [(512 << 10, 2560 << 10), (0, 3000), (1, 300 << 10), (4000, 4200), (60000, 70000)],
    ids=["chunks", "tiny", "mixed", "pages", "parts"],
)
def test_a_tier_that_keeps_within_usable_bytes_never_sees_the_file_full(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, sync: str, lengths: tuple[int, int]
) -> None:
    backend = opening(capacity=24 * MIB, sync=sync)
    tier = Tier(backend, seed=7)
    draw = random.Random(11)
    written = number = 0
    while written < 72 * MIB and number < 3000:
        length = draw.randrange(*lengths)
        number += 1
        name = draw.randrange(400) if length < 4096 else number % 97
        tier.put(message(name, length), content(number, length))
        written += max(length, 20000 if sync == "none" else 60000)
        if number % 16 == 0:
            assert on_disk(tmp_path / "store") <= 24 * MIB
    assert backend.stats().detail["stored_bytes"] == tier.used
    assert {k.to_string() for k in backend.list_keys()} == set(tier.charges)
    assert on_disk(tmp_path / "store") <= 24 * MIB


def fill(backend: Any, message: Any, content: Any) -> int:
    """Put chunks of 1 MiB until one is refused; how many fitted."""
    for number in range(100):
        try:
            backend.put(message(number, MIB), content(number, MIB))
        except CapacityError:
            return number
    raise AssertionError("a store without an end")


def test_a_bare_full_store_refuses_a_put_and_keeps_its_state(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    backend = opening(capacity=8 * MIB)
    stored = fill(backend, message, content)
    assert stored >= 6
    for number in range(stored):
        assert backend.get(OpaqueKey(str(number))).data == content(number, MIB)
    with pytest.raises(CapacityError):
        backend.put(message(0, MIB), content(99, MIB))
    assert backend.get(OpaqueKey("0")).data == content(0, MIB)
    backend.remove(OpaqueKey("1"))
    backend.put(message("new", MIB), content(77, MIB))
    assert backend.get(OpaqueKey("new")).data == content(77, MIB)


def test_put_many_keeps_what_came_before_the_item_that_found_no_room(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    backend = opening(capacity=8 * MIB)
    with pytest.raises(CapacityError):
        backend.put_many([(message(n, MIB), content(n, MIB)) for n in range(20)])
    held = sorted(int(k.to_string()) for k in backend.list_keys())
    assert held == list(range(len(held)))
    assert len(held) >= 6


def test_removing_and_putting_the_same_amount_at_once_works_in_a_full_store(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    backend = opening(capacity=16 * MIB)
    fill(backend, message, content)
    for round_ in range(5):
        held = backend.list_keys()[:8]
        backend.remove_many(held)
        backend.put_many([(message(f"{round_}/{n}", MIB), content(n, MIB)) for n in range(len(held))])


def test_a_value_larger_than_the_store_can_ever_hold_says_so(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    backend = opening(capacity=2 * MIB)
    with pytest.raises(ValueTooLargeError):
        backend.put(message("k", 3 * MIB), content(1, 3 * MIB))
    assert backend.list_keys() == []


def test_a_file_larger_than_the_capacity_is_refused_with_what_to_do(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening(capacity=16 * MIB) as backend:
        backend.put_many([(message(n, MIB), content(n, MIB)) for n in range(10)])
    with pytest.raises(ConfigError, match="compact"):
        opening(capacity=4 * MIB)
    with opening(capacity=16 * MIB) as backend:
        assert len(backend.list_keys()) == 10


def test_a_capacity_too_small_for_a_file_is_a_config_error(opening: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="at least 1 MiB"):
        opening(capacity=4096)


@pytest.mark.parametrize("journal", [None, bytes(256)], ids=["gone", "damaged"])
def test_a_file_larger_than_the_capacity_is_refused_also_without_its_journal(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, journal: bytes | None
) -> None:
    with opening(capacity=16 * MIB) as backend:
        backend.put_many([(message(n, MIB), content(n, MIB)) for n in range(10)])
    path = tmp_path / "store" / "journal"
    path.unlink()
    if journal is not None:
        path.write_bytes(journal)
    with pytest.raises(ConfigError, match="compact"):
        opening(capacity=4 * MIB)
    with opening(capacity=16 * MIB) as backend:
        assert len(backend.list_keys()) == 10


def test_what_a_killed_renewal_of_the_index_left_is_gone_once_the_store_is_open(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    with opening() as backend:
        backend.put(message("k", MIB), content(1, MIB))
    left = tmp_path / "store" / "index.new"
    left.write_bytes(bytes(8 * MIB))
    with opening() as backend:
        assert not left.exists()
        assert backend.get(OpaqueKey("k")).data == content(1, MIB)


def test_small_chunks_after_large_ones_and_large_ones_again_stay_within_the_capacity(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    """The index grows with the first and shrinks with the second: pages of `data` make room for it and take it back."""
    backend = opening(capacity=16 * MIB, sync="none")
    tier = Tier(backend, seed=3)
    number = 0
    for length, rounds in ((600 << 10, 60), (100, 6000), (600 << 10, 60)):
        for _ in range(rounds):
            number += 1
            tier.put(message(number, length), content(number, length))
            if number % 50 == 0:
                backend._checkpoints.make()
                assert on_disk(tmp_path / "store") <= 16 * MIB
    assert backend.stats().detail["stored_bytes"] == tier.used
    for name in tier.charges:
        assert backend.get(OpaqueKey(name)) is not None
    assert on_disk(tmp_path / "store") <= 16 * MIB


def test_a_store_that_was_copied_with_its_holes_filled_stays_within_the_capacity(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    capacity = 16 * MIB
    with opening(capacity=capacity, sync="none") as backend:
        count = fill(backend, message, content)
        backend.remove_many([OpaqueKey(str(n)) for n in range(count - 1)])
        backend.shrink()
        backend.put_many([(message(f"small {n}", 100), content(n, 100)) for n in range(500)])
    data = tmp_path / "store" / "data"
    dense = data.read_bytes()
    assert data.stat().st_blocks * 512 < len(dense)
    data.write_bytes(dense)
    with opening(capacity=capacity, sync="none") as backend:
        number = 0
        with contextlib.suppress(CapacityError):
            while True:
                number += 1
                backend.put(message(f"more {number}", 100), content(number, 100))
                if number % 100 == 0:
                    backend._checkpoints.make()
                    assert on_disk(tmp_path / "store") <= capacity
        assert on_disk(tmp_path / "store") <= capacity
        assert backend.get(OpaqueKey(str(count - 1))).data == content(count - 1, MIB)


def test_a_capacity_beyond_any_disk_opens_or_names_the_cause_and_leaves_no_files(
    opening: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lmdb

    opening("huge", capacity=200 << 40).close()

    def refusing(*args: Any, **named: Any) -> Any:
        raise lmdb.MemoryError("mdb_env_open: Cannot allocate memory")

    monkeypatch.setattr(lmdb, "open", refusing)
    with pytest.raises(ConfigError, match="address space"):
        opening("small", capacity=200 << 40)
    assert not (tmp_path / "small").exists()


def test_what_is_free_beyond_what_puts_need_goes_back_to_the_file_system_at_a_checkpoint(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    with opening(capacity=128 * MIB, sync="none") as backend:
        backend.put_many([(message(n, MIB), content(n, MIB)) for n in range(100)])
        backend.remove_many([OpaqueKey(str(n)) for n in range(0, 40, 2)])
        backend._checkpoints.make()
        room = backend._store.pages.room
        assert room.free.pages >= 20 * 256, "the next puts will want them"
        backend.remove_many([OpaqueKey(str(n)) for n in range(90)])
        backend._checkpoints.make()
        assert room.free.pages * 4096 <= 26 * MIB
        assert on_disk(tmp_path / "store") <= 40 * MIB
        for n in range(90, 100):
            assert backend.get(OpaqueKey(str(n))).data == content(n, MIB)
