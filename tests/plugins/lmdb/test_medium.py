"""A disk that is full, read-only or gone under a store: puts are refused or dropped, gets go on, nothing hangs or dies.

The full disk is a small tmpfs, where a write through a mapping to a block that is not there is a SIGBUS.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import StorageFullError, StorageUnavailableError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.lmdb import directory
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.events import EventReason
from lms_tiers.tiered.watch.stats import BreakerState
from tests.plugins.lmdb.waiting import until

MIB = 1 << 20
SYNCS = ["none", "batch", "commit"]


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system of its own needs the right to mount: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=12m", "tmpfs") as path:
        yield path


def ballast(disk: Path) -> Path:
    """A file that takes every block that is left."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def store(directory: Path, sync: str) -> LmdbBackend:
    return open_backend(str(directory), 64 * MIB, LmdbOptions.model_validate({"sync": sync, "codec": "raw"}))


def until_refused(backend: LMSBackendInterface, message: Any, content: Any) -> int:
    """Put chunks of 1 MiB until the disk has no room; how many were stored."""
    for number in range(64):
        try:
            backend.put(message(number, MIB), content(number, MIB))
        except StorageUnavailableError:
            return number
    raise AssertionError("a disk without an end")


def check_all(backend: LMSBackendInterface, content: Any, numbers: range) -> None:
    for number in numbers:
        obj = backend.get(OpaqueKey(str(number)))
        assert obj is not None
        assert obj.data == content(number, MIB)


@pytest.mark.parametrize("sync", SYNCS)
def test_on_a_full_disk_puts_are_refused_and_counted_gets_go_on_and_it_recovers(
    disk: Path, message: Any, content: Any, sync: str
) -> None:
    with store(disk / "kv", sync) as backend:
        stored = until_refused(backend, message, content)
        assert stored >= 8
        room = ballast(disk)
        failures = backend.stats().failures
        assert failures >= 1
        with pytest.raises(StorageUnavailableError):
            backend.put(message(0, MIB), content(99, MIB))
        assert backend.stats().failures > failures
        check_all(backend, content, range(stored))
        backend.flush(60)
        backend.remove(OpaqueKey("0"))
        assert backend.get(OpaqueKey("0")) is None
        check_all(backend, content, range(1, stored))
        room.unlink()
        backend.flush(60)
        backend.put(message("after", MIB // 2), content(7, MIB // 2))
        assert backend.get(OpaqueKey("after")).data == content(7, MIB // 2)  # type: ignore[union-attr]  # just put
        assert backend.stats().corrupt == 0
    with store(disk / "kv", sync) as backend:
        check_all(backend, content, range(1, stored))


def test_of_a_batch_that_does_not_fit_the_disk_what_fits_is_stored(disk: Path, message: Any, content: Any) -> None:
    with store(disk / "kv", "batch") as backend:
        with pytest.raises(StorageUnavailableError):
            backend.put_many([(message(number, MIB), content(number, MIB)) for number in range(20)])
        held = sorted(int(key.to_string()) for key in backend.list_keys())
        assert held == list(range(len(held)))
        assert len(held) >= 8
        check_all(backend, content, range(len(held)))


def test_readers_by_the_hundred_begin_on_a_full_disk(disk: Path, message: Any, content: Any) -> None:
    # Each needs a slot of LMDB's reader table, which lies in a file of its own.
    with store(disk / "kv", "batch") as backend:
        stored = until_refused(backend, message, content)
        ballast(disk)
        with ExitStack() as views:
            for number in range(400):
                view = views.enter_context(backend.view(OpaqueKey(str(number % stored))))
                assert view is not None
                assert view.buffers[0][:64] == content(number % stored, MIB)[:64]


@pytest.mark.parametrize("sync", SYNCS)
def test_a_store_on_a_full_disk_closes_and_opens_again(disk: Path, message: Any, content: Any, sync: str) -> None:
    with store(disk / "kv", sync) as backend:
        stored = until_refused(backend, message, content)
        ballast(disk)
    for _ in range(2):
        with store(disk / "kv", sync) as backend:
            check_all(backend, content, range(stored))
            with pytest.raises(StorageUnavailableError):
                backend.put(message("more", MIB), content(1, MIB))


FILL = """
import sys
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.errors import StorageUnavailableError
from tests.plugins.lmdb.conftest import _content, _message
backend = open_backend(sys.argv[1], 64 << 20, LmdbOptions(sync=sys.argv[2], codec="raw"))
for number in range(64):
    try:
        backend.put(_message(number, 1 << 20), _content(number, 1 << 20))
    except StorageUnavailableError:
        break
print(number, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("sync", SYNCS)
def test_after_a_kill_a_full_disk_is_served_and_takes_puts_once_it_has_room(
    disk: Path, message: Any, content: Any, sync: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FILL, str(disk / "kv"), sync], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    ) as job:  # fmt: skip
        assert job.stdout is not None
        stored = int(job.stdout.readline())
        room = ballast(disk)
        job.kill()
    assert stored >= 8
    before = (disk / "kv" / "index.mdb").read_bytes()
    for _ in range(2):
        with store(disk / "kv", sync) as backend:
            check_all(backend, content, range(stored))
            assert {int(info.key.to_string()) for info in backend.scan()} == set(range(stored))
            for _ in range(2):
                with pytest.raises(StorageFullError):
                    backend.put(message("more", 100), content(1, 100))
                with pytest.raises(StorageFullError):
                    backend.remove(OpaqueKey("0"))
            assert backend.stats().failures >= 4
        assert (disk / "kv" / "index.mdb").read_bytes() == before, "the old one is in force"
    with store(disk / "kv", sync) as backend:
        room.unlink()
        until(lambda: _put(backend, message("more", 100), content(1, 100)))
        backend.remove(OpaqueKey("0"))
        backend.flush(60)
    with store(disk / "kv", sync) as backend:
        check_all(backend, content, range(1, stored))
        assert backend.get(OpaqueKey("0")) is None
        assert backend.get(OpaqueKey("more")).data == content(1, 100)  # type: ignore[union-attr]


def _put(backend: LmdbBackend, message: Any, data: bytearray) -> bool:
    with suppress(StorageFullError):
        backend.put(message, data)
        return True
    return False


def test_a_new_store_on_a_full_disk_is_refused(disk: Path) -> None:
    room = ballast(disk)
    for left in (0, 4096, 20_000, 60_000):  # the directory, some of the small files, no data file
        os.truncate(room, room.stat().st_size - left)
        with pytest.raises(StorageUnavailableError):
            store(disk / "kv", "batch")


def test_a_tier_on_a_full_disk_drops_and_counts_answers_gets_and_recovers(
    disk: Path, message: Any, content: Any
) -> None:
    room = disk / "room"
    room.write_bytes(bytes(3 * MIB))
    tiers = [
        TierConfig("cpu", LMSLocalBackend(), 4 * MIB, Lru(4 * MIB, time.monotonic)),
        TierConfig("lmdb", store(disk / "kv", "batch"), 64 * MIB, Lru(64 * MIB, time.monotonic)),
    ]
    with TieredStore(tiers, back_pressure=60, stall=60, breaker_threshold=2, close_timeout=60) as tiered:
        for number in range(40):
            tiered.put(message(number, MIB), content(number, MIB))
            for other in (0, number):  # the first one is always in use, so no tier has a reason to let it go
                obj = tiered.get(OpaqueKey(str(other)))
                assert obj is not None
                assert obj.data == content(other, MIB)
        stats = tiered.stats()
        assert stats.tiers[1].failures > 0
        assert stats.tiers[1].breaker is BreakerState.CLOSED
        assert 4 <= stats.tiers[1].keys < 40

        def every_loss_is_counted() -> bool:
            tops, lowest = (tier.evictions_by_reason for tier in tiered.stats().tiers)
            lost = sum(tops.values()) - tops[EventReason.CLEANED] + sum(lowest.values())
            return 40 - len(tiered.list_keys()) == lost

        until(every_loss_is_counted)
        room.unlink()
        demoted = tiered.stats().tiers[1].demoted
        for number in range(40, 46):
            tiered.put(message(number, MIB), content(number, MIB))
        until(lambda: _flushed(tiered))
        assert tiered.stats().tiers[1].demoted > demoted
        held = {int(key.to_string()) for key in tiered.list_keys()}
        assert {42, 43, 44, 45} <= held
    with store(disk / "kv", "batch") as backend:
        assert {int(key.to_string()) for key in backend.list_keys()} == held
        for number in held:
            check_all(backend, content, range(number, number + 1))


def _flushed(tiered: TieredStore) -> bool:
    try:
        tiered.flush(60)
    except StorageFullError:
        return False
    return True


@contextmanager
def writes_refused(path: Path) -> Iterator[None]:
    """As after an error that made the kernel remount a disk read-only: every descriptor there refuses writes."""
    found = {int(n): target for n in os.listdir("/proc/self/fd") if (target := _file(n)) and target.parent == path}
    assert {file.name for file in found.values()} >= {"data", "index.mdb", "journal"}
    kept = {fd: os.dup(fd) for fd in found}
    try:
        for fd, file in found.items():
            reader = os.open(file, os.O_RDONLY)
            os.dup2(reader, fd, inheritable=False)
            os.close(reader)
        yield
    finally:
        for fd, copy in kept.items():
            os.dup2(copy, fd, inheritable=False)
            os.close(copy)


def _file(fd: str) -> Path | None:
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        return None


@pytest.mark.parametrize("sync", SYNCS)
def test_a_disk_that_turns_read_only_under_a_store_costs_the_puts_only(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, sync: str
) -> None:
    with opening(sync=sync) as backend:
        for number in range(4):
            backend.put(message(number, MIB), content(number, MIB))
        backend.flush(60)
        with writes_refused(tmp_path / "store"):
            for _ in range(2):
                with pytest.raises(StorageUnavailableError):
                    backend.put(message(0, MIB), content(99, MIB))
            with pytest.raises(StorageUnavailableError):
                backend.remove(OpaqueKey("1"))
            backend.touch([OpaqueKey("2")])
            check_all(backend, content, range(4))
        backend.put(message(4, MIB), content(4, MIB))
        backend.flush(60)
        check_all(backend, content, range(5))
    with opening(sync=sync) as backend:
        check_all(backend, content, range(5))


def test_a_store_on_a_read_only_file_system_is_refused_untouched_and_opens_once_it_is_writable(
    disk: Path, message: Any, content: Any
) -> None:
    with store(disk / "kv", "batch") as backend:
        backend.put(message(0, MIB), content(0, MIB))
        busy = subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=False)
        assert busy.returncode, "the kernel remounts a file system read-only that a store writes to"
        backend.put(message(1, MIB), content(1, MIB))
    before = {p.name: p.read_bytes() for p in (disk / "kv").iterdir()}
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StorageUnavailableError, match="writable"):
        store(disk / "kv", "batch")
    assert {p.name: p.read_bytes() for p in (disk / "kv").iterdir()} == before
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    with store(disk / "kv", "batch") as backend:
        check_all(backend, content, range(2))


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o555, 0o444, 0])
def test_a_directory_nobody_may_write_to_or_look_into_is_refused(
    tmp_path: Path, message: Any, content: Any, mode: int
) -> None:
    with store(tmp_path / "kv", "batch") as backend:
        backend.put(message(0, MIB), content(0, MIB))
    before = tmp_path.parent.stat().st_mode
    tmp_path.parent.chmod(0o755)
    (tmp_path / "kv").chmod(mode)
    try:
        with nobody(), pytest.raises(StorageUnavailableError):
            store(tmp_path / "kv", "batch")
    finally:
        (tmp_path / "kv").chmod(stat.S_IRWXU)
        tmp_path.parent.chmod(before)
    with store(tmp_path / "kv", "batch") as backend:
        check_all(backend, content, range(1))


@pytest.mark.parametrize("sync", SYNCS)
def test_a_directory_deleted_under_a_store_costs_the_puts_only(
    tmp_path: Path, message: Any, content: Any, sync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "LOOK", 0)
    backend = store(tmp_path / "kv", sync)
    for number in range(4):
        backend.put(message(number, MIB), content(number, MIB))
    shutil.rmtree(tmp_path / "kv")
    for number in range(4, 6):
        with pytest.raises(StorageUnavailableError, match="deleted or replaced"):
            backend.put(message(number, MIB), content(number, MIB))
    with pytest.raises(StorageUnavailableError):
        backend.remove(OpaqueKey("0"))
    with pytest.raises(StorageUnavailableError):
        backend.flush(60)  # it must not promise what nobody can open again
    check_all(backend, content, range(4))
    stats = backend.stats()
    assert (stats.keys, stats.corrupt) == (4, 0)
    assert stats.failures >= 3
    assert stats.bytes_used is not None
    assert stats.bytes_used >= 4 * MIB
    backend.close()
    with store(tmp_path / "kv", sync) as again:
        assert again.list_keys() == []
