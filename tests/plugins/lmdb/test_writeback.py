"""Write-back is started early once commits are held up, whatever the system says to it, and ends with the store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lms_tiers.plugins.lmdb import writeback
from lms_tiers.plugins.lmdb.backend import LmdbBackend
from lms_tiers.plugins.lmdb.sidecar import DATA_FILE
from lms_tiers.plugins.lmdb.writeback import Writeback

STEP, HELD_UP = writeback.STEP_BYTES, writeback.HELD_UP_SECONDS


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / DATA_FILE).write_bytes(b"data")
    return tmp_path


def test_nothing_is_started_for_a_store_that_is_never_held_up(directory: Path) -> None:
    back = Writeback(directory, lambda fd: pytest.fail("started"))
    for _ in range(100):
        back.wrote(STEP, HELD_UP / 2)
    back.stop()
    assert back.started == 0


def test_large_commits_that_take_their_time_are_not_held_up(directory: Path) -> None:
    back = Writeback(directory, lambda fd: pytest.fail("started"))
    for _ in range(500):
        back.wrote(1 << 20, HELD_UP / 2)
    back.wrote(STEP, 64 * HELD_UP / 2)
    back.stop()
    assert back.started == 0


def test_after_a_held_up_commit_a_start_follows_each_step_for_a_spell(directory: Path) -> None:
    starts = threading.Semaphore(0)
    back = Writeback(directory, lambda fd: starts.release())
    back.wrote(1, 2 * HELD_UP)
    for _ in range(writeback.SPELL_BYTES // STEP):
        back.wrote(STEP - 1, 0.0)
        assert not starts.acquire(blocking=False)
        back.wrote(1, 0.0)
        assert starts.acquire(timeout=10)
    for _ in range(3):
        back.wrote(STEP, 0.0)
    back.stop()
    assert not starts.acquire(blocking=False)


def test_steps_that_come_while_the_disk_is_busy_are_done_by_one_start(directory: Path) -> None:
    entered, leave = threading.Semaphore(0), threading.Semaphore(0)

    def start(fd: int) -> None:
        entered.release()
        assert leave.acquire(timeout=10)

    back = Writeback(directory, start)
    back.wrote(STEP, 2 * HELD_UP)
    assert entered.acquire(timeout=10)
    for _ in range(5):  # the writer is not held up
        back.wrote(STEP, 2 * HELD_UP)
    leave.release(2)
    assert entered.acquire(timeout=10)
    back.stop()
    assert back.started == 2


def test_a_refused_start_does_not_end_the_thread(directory: Path) -> None:
    asked = threading.Semaphore(0)

    def start(fd: int) -> None:
        asked.release()
        raise OSError("no")

    back = Writeback(directory, start)
    for _ in range(2):
        back.wrote(STEP, 2 * HELD_UP)
        assert asked.acquire(timeout=10)
    back.stop()
    back.stop()
    assert back.started == 0


@pytest.mark.parametrize(("sync", "begins"), [("none", True), ("batch", False), ("commit", False)])
def test_a_store_that_syncs_nothing_starts_write_back_of_what_it_commits(
    opening: Callable[..., LmdbBackend],
    content: Callable[[int, int], bytearray],
    message: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    sync: str,
    begins: bool,
) -> None:
    monkeypatch.setattr(writeback, "STEP_BYTES", 1 << 20)
    monkeypatch.setattr(writeback, "HELD_UP_SECONDS", -1.0)
    monkeypatch.setattr(writeback, "_HELD_UP_TIMES", 0)
    started = threading.Semaphore(0)
    monkeypatch.setattr(writeback, "_system", lambda: lambda fd: started.release())
    store = opening(sync=sync)
    for number in range(3):
        store.put(message(number, 1 << 20), content(number, 1 << 20))  # type: ignore[arg-type]
    assert started.acquire(timeout=10 if begins else 0.05) is begins
    store.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "lms-tiers-lmdb-writeback"]
