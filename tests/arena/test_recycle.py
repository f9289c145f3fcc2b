"""Recycled buffers: warm memory is used again, but never while anyone can see it."""

from __future__ import annotations

import gc
import mmap
from typing import Any

import numpy as np
import pytest
import torch

from lms_tiers.arena.recycle import Recycler, map_block

N = 256 << 10


def address(buffer: memoryview) -> int:
    return np.frombuffer(buffer, dtype=np.uint8).ctypes.data


@pytest.mark.parametrize(
    "derive",
    [
        lambda view: view,
        lambda view: view.toreadonly(),
        lambda view: view[5:9],
        lambda view: view.cast("H"),
        lambda view: np.frombuffer(view, dtype=np.uint8)[3:7],
        lambda view: np.asarray(view)[::2][1:],
        lambda view: torch.frombuffer(view, dtype=torch.uint8)[7:],
        lambda view: torch.frombuffer(view, dtype=torch.uint8).view(torch.bfloat16).reshape(2, -1)[0],
        lambda view: torch.from_numpy(np.frombuffer(view, dtype=np.uint8)).numpy()[1:2],
        lambda view: view.obj,
        lambda view: view.obj[5:],
        lambda view: view.obj.reshape(2, -1)[1].view(np.uint16)[3:],
    ],
)  # fmt: skip
def test_a_buffer_comes_back_only_when_the_last_view_of_it_died(derive: object) -> None:
    recycler = Recycler(1 << 20)
    view = recycler.take(N)
    where = address(view)
    seen = derive(view)  # type: ignore[operator]
    del view
    gc.collect()
    other = recycler.take(N)
    assert address(other) != where
    del seen
    gc.collect()
    assert recycler.idle_bytes == N
    assert address(recycler.take(N)) == where
    assert recycler.reused == 1


def test_buffers_of_nearly_one_size_share_blocks_and_have_their_own_length() -> None:
    recycler = Recycler(1 << 20)
    first = recycler.take(N)
    where = address(first)
    del first
    second = recycler.take(N - 100)
    assert second.nbytes == N - 100
    assert address(second) == where


def test_no_more_than_the_limit_is_kept_idle() -> None:
    recycler = Recycler(2 * N)
    lent = [recycler.take(N) for _ in range(5)]
    assert recycler.lent_bytes == 5 * N
    lent.clear()
    gc.collect()
    assert recycler.idle_bytes == 2 * N
    assert recycler.lent_bytes == 0


def test_a_buffer_that_dies_inside_the_recycler_comes_back() -> None:
    recycler = Recycler(1 << 20)
    lent = recycler.take(N)
    with recycler._lock:  # as if the collector ran inside `take`
        del lent
    kept = recycler.take(N)
    assert recycler.reused == 1
    del kept


def test_after_close_nothing_is_kept_and_what_is_lent_stays() -> None:
    recycler = Recycler(1 << 20)
    idle, lent = recycler.take(N), recycler.take(N)
    lent[:3] = b"abc"
    del idle
    recycler.close()
    assert recycler.idle_bytes == 0
    assert bytes(lent[:3]) == b"abc"
    del lent
    gc.collect()
    assert recycler.idle_bytes == 0


def test_small_buffers_are_not_mapped_one_by_one() -> None:
    recycler = Recycler(1 << 20)
    assert recycler.take(100).nbytes == 100
    assert recycler.take(0).nbytes == 0
    assert recycler.made == 0


def test_a_block_that_cannot_be_made_leaves_the_count_as_it_was() -> None:
    def fail(nbytes: int) -> object:
        raise OSError(12, "no memory")

    recycler = Recycler(1 << 20, fail)
    with pytest.raises(OSError, match="no memory"):
        recycler.take(N)
    assert recycler.lent_bytes == 0


def test_a_kernel_without_large_pages_still_gives_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *args: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr("lms_tiers.arena.recycle.mmap.mmap", Refusing)
    assert len(map_block(4 << 20)) == 4 << 20


@pytest.mark.parametrize("warm", [False, True], ids=["a fresh block", "one used before"])
def test_a_buffer_that_could_not_be_lent_is_not_counted_as_lent(monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    recycler = Recycler(8 * N)
    if warm:
        recycler.take(N).release()
    gc.collect()

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "frombuffer", no_memory)
        with pytest.raises(MemoryError):
            recycler.take(N)
    assert recycler.lent_bytes == 0
    recycler.close()


def test_blocks_that_come_back_while_idle_ones_are_counted_disturb_nothing() -> None:
    """A block may end inside any step of the thread that counts."""
    recycler = Recycler(8 * N)
    held = [recycler.take(2 * N), recycler.take(3 * N)]

    class Ends(list[Any]):
        def __len__(self) -> int:
            held.clear()
            gc.collect()
            return super().__len__()

    recycler._idle[N] = Ends([bytearray(N)])
    assert recycler.idle_bytes >= N
    assert recycler.idle_bytes >= 6 * N
    assert recycler.lent_bytes == 0
