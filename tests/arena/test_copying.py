"""Host copies: exact for every length and split, errors reach the caller, threads end with the copier."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from lms_tiers.arena import copying
from lms_tiers.arena.copying import Copier, array_pairs, as_array, flat_bytes, scattered
from lms_tiers.errors import InvalidBufferError, InvalidChunkError
from tests.stepping import until_it_waits


@pytest.fixture(params=[1, 3])
def copier(request: pytest.FixtureRequest) -> Iterator[Copier]:
    copier = Copier(request.param)
    yield copier
    copier.close()


def random_bytes(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(n).integers(0, 256, n, dtype=np.uint8)


@pytest.mark.parametrize("n", [0, 1, 4095, (4 << 20) - 1, 4 << 20, (6 << 20) + 65])
def test_a_copy_is_exact_however_it_is_split(copier: Copier, n: int) -> None:
    source = random_bytes(n)
    target = np.full(n + 2, 7, dtype=np.uint8)
    copier.copy(target[1:-1], source)
    assert np.array_equal(target[1:-1], source)
    assert target[0] == target[-1] == 7


def test_scatter_and_gather_are_inverse(copier: Copier) -> None:
    source = random_bytes(1000)
    pieces = [np.zeros(n, dtype=np.uint8) for n in (1, 600, 399)]
    copier.move(pieces, [source])
    back = np.zeros(1000, dtype=np.uint8)
    copier.move([back], pieces)
    assert np.array_equal(back, source)


def test_every_task_runs_once(copier: Copier) -> None:
    done: list[int] = []
    copier.each([lambda i=i: done.append(i) for i in range(100)])  # type: ignore[misc]
    assert sorted(done) == list(range(100))


def test_a_failing_task_is_raised_after_all_have_ended(copier: Copier) -> None:
    running: list[int] = []

    def task(i: int) -> None:
        running.append(i)
        if i == 5:
            raise OSError("broken")
        running.append(-i)

    with pytest.raises(OSError, match="broken"):
        copier.each([lambda i=i: task(i) for i in range(50)])  # type: ignore[misc]
    started = [i for i in running if i > 0]
    assert sorted([i for i in started if i != 5]) == sorted(-i for i in running if i < 0)


def test_a_closed_copier_still_copies_in_the_calling_thread() -> None:
    copier = Copier(4)
    copier.copy(np.zeros(8 << 20, dtype=np.uint8), random_bytes(8 << 20))
    assert any(t.name.startswith("lms-copy") for t in threading.enumerate())
    copier.close()
    assert not any(t.name.startswith("lms-copy") for t in threading.enumerate())
    target = np.zeros(8 << 20, dtype=np.uint8)
    copier.copy(target, random_bytes(8 << 20))
    assert np.array_equal(target, random_bytes(8 << 20))


def test_threads_are_chosen_by_the_machine() -> None:
    assert 1 <= Copier().threads <= 8


def test_bytes_of_a_put_are_read_in_c_order() -> None:
    grid = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert flat_bytes("k", grid).tobytes() == grid.tobytes()
    assert flat_bytes("k", grid.T).tobytes() == grid.T.tobytes()
    assert flat_bytes("k", grid[::2]).tobytes() == grid[::2].tobytes()
    assert flat_bytes("k", np.zeros((0, 4))).nbytes == 0
    data = bytearray(b"xyz")
    assert flat_bytes("k", data).obj is data, "no copy is made"
    with pytest.raises(InvalidChunkError, match="offers no buffer"):
        flat_bytes("k", 5)


def test_scattered_destinations_are_checked_before_anything_is_written() -> None:
    first, second = bytearray(3), bytearray(5)
    targets = scattered([first, bytearray(0), second], 6)
    assert [t.size for t in targets] == [3, 3]
    with pytest.raises(InvalidBufferError, match="have 8 bytes"):
        scattered([first, second], 9)
    with pytest.raises(InvalidBufferError, match="writable"):
        scattered([b"readonly"], 1)


def test_pairs_cut_two_lists_alike() -> None:
    targets = [np.zeros(n, dtype=np.uint8) for n in (2, 5, 3)]
    sources = [as_array(b"abcd"), as_array(b""), as_array(b"efghij")]
    for target, source in array_pairs(targets, sources):
        np.copyto(target, source)
    assert b"".join(t.tobytes() for t in targets) == b"abcdefghij"


def test_copies_that_an_interrupt_left_behind_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    copier = Copier(2)
    begun, gate = threading.Event(), threading.Event()
    ended: list[str] = []

    def task() -> None:
        if threading.current_thread() is calling:
            assert begun.wait(60)  # the other thread is at the other task
        else:
            begun.set()
            assert gate.wait(60)
            ended.append("copy")

    def call() -> None:
        with pytest.raises(KeyboardInterrupt):
            copier.each([task, task])
        copier.settle()
        ended.append("settle")

    def interrupted(futures: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(copying, "wait", interrupted)
    calling = threading.Thread(target=call)
    calling.start()
    assert begun.wait(60)
    until_it_waits(calling)
    assert not ended
    gate.set()
    calling.join(60)
    copier.close()
    assert ended == ["copy", "settle"]
