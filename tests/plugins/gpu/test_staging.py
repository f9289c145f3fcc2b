"""The staging ring: whatever is raised while a slot is lent, the slot comes back."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.gpu.backend import GpuBackend, GpuOptions
from lms_tiers.plugins.gpu.staging import Ring
from tests.plugins.arena_chunks import PAGE, content, key, message
from tests.stepping import until_it_waits
from tests.tiered.interrupts import ROOT, interrupted

STAGING = (str(ROOT / "plugins/gpu/staging.py"), str(ROOT / "plugins/gpu/transfers.py"))
OPTIONS = GpuOptions(staging=1 << 16, threads=1)
SIZE = 3 * PAGE

#: Where the interrupt meets a generator's end, Python says so and goes on.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def all_can_be_lent(ring: Ring, slots: int) -> bool:
    """Whether so many threads can hold a slot at once, each one of its own."""
    held: set[int] = set()
    all_in = threading.Barrier(slots)

    def hold() -> None:
        with ring.slot() as slot:
            held.add(id(slot))
            all_in.wait(60)

    threads = [threading.Thread(target=hold, daemon=True) for _ in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return len(held) == slots


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.deep)])
def test_a_put_interrupted_at_any_opcode_of_its_staging_keeps_every_slot(make_streams: Any, stride: int) -> None:
    for at in itertools.count(1, stride):
        backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, make_streams(at))
        backend.put(message("a", SIZE), content(1, SIZE))
        with interrupted(at, STAGING) as interrupt:
            backend.put(message("a", SIZE), content(2, SIZE))
        transfers = backend._transfers
        assert transfers is not None
        assert transfers._ring.lent == 0, interrupt.where
        found = backend.get(key("a"))
        assert found is not None, interrupt.where
        assert bytes(found.data) in (content(1, SIZE), content(2, SIZE)), interrupt.where
        backend.put(message("b", 9 * SIZE), content(3, 9 * SIZE))  # more than the ring holds
        found = backend.get(key("b"))
        assert found is not None
        assert bytes(found.data) == content(3, 9 * SIZE)
        backend.close()
        if not interrupt.where:
            break
    assert at > 100, "the interrupts reach the staging"


def test_a_slot_whose_fence_or_user_fails_is_lent_again(streams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(streams, 2, PAGE)

    def use() -> None:
        with ring.slot() as slot:
            slot.fence = streams.record(streams.default)
            raise ValueError("the user")

    for _ in range(3):
        with pytest.raises(ValueError, match="the user"):
            use()

    def lost(fence: Any) -> None:
        raise RuntimeError("the device is lost")

    with monkeypatch.context() as patched:
        patched.setattr(streams, "join", lost)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="lost"), ring.slot():
                raise AssertionError("a slot that is still read was lent")
    assert ring.lent == 0
    assert all_can_be_lent(ring, 2)


def test_puts_that_fail_more_often_than_there_are_slots_leave_all_of_them(streams: Any) -> None:
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    for _ in range(20):
        streams.fail_copies = 1
        with pytest.raises(StorageUnavailableError):
            backend.put(message("a", PAGE), content(1, PAGE))
    assert backend._transfers is not None
    assert all_can_be_lent(backend._transfers._ring, 8)
    backend.close()


def test_a_thread_waits_for_a_slot_until_one_is_given_back(streams: Any) -> None:
    ring = Ring(streams, 1, PAGE)
    got = threading.Event()

    def take() -> None:
        with ring.slot():
            got.set()

    with ring.slot():
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        until_it_waits(thread)
        assert not got.is_set()
    thread.join(60)
    assert got.is_set()
