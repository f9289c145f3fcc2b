"""A killed process loses nothing it was told is stored; a lost power, nothing it was told is flushed."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from tests.depth import some

JOB = Path(__file__).with_name("crash_job.py")
ROOT = Path(__file__).resolve().parents[3]
SECTOR = 512
#: Kills in each mode: 300 by hand, CRASHES=300.
CRASHES = int(os.environ.get("CRASHES", "4"))

State = tuple[int, int] | None  # seed and length of a put; None: absent


def data_of(state: tuple[int, int]) -> bytes:
    return random.Random(state[0]).randbytes(state[1])


def run_until_killed(directory: Path, seed: int, sync: str, lines: int, delay: float) -> list[str]:
    """What the job said before it was killed, `delay` seconds after its line number `lines`."""
    job = subprocess.Popen(
        [sys.executable, str(JOB), str(directory), str(seed), sync],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stdout is not None
    said: list[str] = []
    try:
        for line in job.stdout:
            said.append(line.rstrip("\n"))
            if len(said) >= lines:
                break
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(delay)
        job.send_signal(signal.SIGKILL)
        said += job.stdout.read().splitlines()
    finally:
        job.kill()
        job.wait()
        job.stdout.close()
    assert job.returncode == -signal.SIGKILL, f"the job ended by itself: {said[-3:]}"
    return said


def possible(before: dict[str, set[State]], said: list[str]) -> dict[str, set[State]]:
    """What each key may hold after the kill: what it was told last, or what was under way."""
    may = {name: set(states) for name, states in before.items()}
    settled: dict[str, set[State]] = {}
    for line in said:
        mark, _, rest = line.partition(" ")
        words = rest.split()
        if mark not in ("?", "!") or len(words) < 2:
            continue
        name = words[1]
        if words[0] == "full":
            may[name] = settled[name]
            continue
        state: State = (int(words[2]), int(words[3])) if words[0] == "put" else None
        if mark == "!":
            may[name] = {state}
        else:
            settled[name] = may.get(name, {None})
            may[name] = settled[name] | {state}
    return may


@pytest.mark.parametrize("sync", some(["none", "batch", "commit"], lambda sync: sync == "batch"))
def test_a_killed_process_leaves_every_acknowledged_chunk_and_no_wrong_byte(tmp_path: Path, sync: str) -> None:
    draw = random.Random(sync)
    may: dict[str, set[State]] = {}
    directory = tmp_path / "store"
    for crash in range(CRASHES):
        said = run_until_killed(directory, crash + 1, sync, draw.randrange(2, 120), draw.random() * 0.05)
        may = possible(may, said)
        options = LmdbOptions.model_validate({"sync": sync, "codec": "auto"})
        with open_backend(str(directory), 12 << 20, options) as backend:
            for name, states in may.items():
                obj = backend.get(OpaqueKey(name))
                held = [
                    s for s in states if (bytes(obj.data) == data_of(s) if s and obj else s is None and obj is None)
                ]
                assert held, f"crash {crash}: {name} holds {obj and obj.length} bytes, may hold {states}"
                may[name] = {held[0]}
            assert backend.stats().corrupt == 0


def torn(before: bytes, after: bytes, draw: random.Random) -> bytes:
    """What a power loss may leave of a file: each sector changed since the sync is old or new."""
    sectors = [after[at : at + SECTOR] for at in range(0, len(after), SECTOR)]
    for number in range(len(sectors)):
        old = before[number * SECTOR : (number + 1) * SECTOR]
        if old != sectors[number] and draw.random() < 0.5:
            sectors[number] = old.ljust(SECTOR, b"\0")
    return b"".join(sectors)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("sync", ["batch", "commit"])
def test_after_a_power_loss_all_that_was_flushed_or_committed_is_there(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, sync: str
) -> None:
    draw = random.Random(5)
    folder = tmp_path / "store"
    backend = opening(capacity=16 << 20, sync=sync)
    kept = {}
    for n in range(60):
        length = draw.choice([100, 5000, 90_000])
        backend.put(message(n, length), content(n, length))
        kept[str(n)] = content(n, length)
        if n == 30:
            backend._checkpoints.make()
    backend.flush()
    synced = files(folder)
    for n in range(25):
        backend.put(message(f"new {n}", 3000), content(1000 + n, 3000))
    after = files(folder)
    assert after["index.mdb"] == synced["index.mdb"], "no checkpoint came between"
    for trial in range(6):
        copy = tmp_path / f"after {trial}"
        copy.mkdir()
        for name, data in after.items():
            lost = sync == "batch" and name in ("data", "journal")
            (copy / name).write_bytes(torn(synced[name], data, draw) if lost else data)
        with opening(copy.name, capacity=16 << 20, sync=sync) as again:
            for name, data in kept.items():
                obj = again.get(OpaqueKey(name))
                assert obj is not None, f"{name} was flushed and is lost"
                assert bytes(obj.data) == data
            for n in range(25):
                obj = again.get(OpaqueKey(f"new {n}"))
                assert obj is not None or sync == "batch"
                assert obj is None or obj.data == content(1000 + n, 3000)
            again.put(message("after", 9), content(3, 9))


def test_after_a_power_loss_without_syncs_there_is_no_wrong_byte(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    draw = random.Random(6)
    folder = tmp_path / "store"
    backend = opening(capacity=16 << 20, sync="none")
    for n in range(60):
        backend.put(message(n, 5000), content(n, 5000))
    before = files(folder)
    backend._checkpoints.make()
    for n in range(0, 60, 2):
        backend.remove(OpaqueKey(str(n)))
        backend.put(message(f"new {n}", 5000), content(500 + n, 5000))
    backend._checkpoints.make()
    after = files(folder)
    for trial in range(6):
        copy = tmp_path / f"after {trial}"
        copy.mkdir()
        for name, data in after.items():
            (copy / name).write_bytes(torn(before[name], data, draw))
        with opening(copy.name, capacity=16 << 20, sync="none") as again:
            for n in range(60):
                for name, seed in ((str(n), n), (f"new {n}", 500 + n)):
                    obj = again.get(OpaqueKey(name))
                    assert obj is None or bytes(obj.data) == content(seed, 5000)


@pytest.mark.parametrize("sync", ["batch", "commit"])
def test_flush_syncs_bytes_before_records_and_commit_does_so_before_put_returns(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, sync: str
) -> None:
    synced: list[str] = []
    fdatasync = os.fdatasync

    def noting(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", noting)
    with opening(sync=sync) as backend:
        synced.clear()
        backend.put(message("k", 100), content(1, 100))
        assert bool(synced) == (sync == "commit")
        backend.flush()
        assert synced == ["data", "journal"]
        backend.flush()
        assert synced == ["data", "journal"], "nothing is new"
        backend.remove(OpaqueKey("k"))
        assert len(synced) == (4 if sync == "commit" else 2)


def test_a_store_killed_before_its_first_checkpoint_is_not_called_damaged(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opening(sync="none") as backend:
        backend.put(message("k", 1000), content(1, 1000))
        shutil.copytree(tmp_path / "store", tmp_path / "killed")
    with opening("killed") as backend:
        assert backend.get(OpaqueKey("k")).data == content(1, 1000)
    assert not caplog.records


@pytest.mark.parametrize("ready", [True, False])
def test_a_checkpoint_cut_off_anywhere_is_made_up_for_by_the_journal(
    opening: Callable[..., Any],
    message: Any,
    content: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ready: bool,
) -> None:
    """Killed between its transactions, or after the last one and before the journal is used again."""
    folder, copy = tmp_path / "store", tmp_path / "copy"
    with opening(capacity=1 << 20, sync="none") as backend:
        for n in range(60):
            backend.put(message(n, 500), content(n, 500))
        backend.remove_many([OpaqueKey(str(n)) for n in range(0, 60, 3)])
        write, left = backend._store.index._write, [25]

        def failing(*args: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("killed")
            write(*args)

        if not ready:
            monkeypatch.setattr(backend._store.index, "_write", failing)
            with pytest.raises(OSError, match="killed"):
                backend._checkpoints.make()
            monkeypatch.undo()
        else:
            backend._checkpoints.make()
        backend.put(message("late", 500), content(99, 500))
        shutil.copytree(folder, copy)
        for n in range(60):
            assert (backend.get(OpaqueKey(str(n))) is None) == (n % 3 == 0)
    for name in ("copy", "store"):
        with opening(name, capacity=1 << 20) as again:
            for n in range(60):
                obj = again.get(OpaqueKey(str(n)))
                assert (obj and obj.data) == (None if n % 3 == 0 else content(n, 500))
            assert again.get(OpaqueKey("late")).data == content(99, 500)
            assert again.stats().corrupt == 0
    assert "damaged" not in caplog.text


def test_chunks_put_while_a_checkpoint_is_made_do_not_make_its_index_look_damaged(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with opening(sync="batch") as backend:
        backend.put_many([(message(n, 500), content(n, 500)) for n in range(20)])
        sync = backend._store.data.sync

        def syncing() -> None:
            backend.put_many([(message(n, 500), content(n, 500)) for n in range(20, 40)])
            sync()

        monkeypatch.setattr(backend._store.data, "sync", syncing)
        backend._checkpoints.make()
        monkeypatch.undo()
        shutil.copytree(tmp_path / "store", tmp_path / "killed")
    with opening("killed") as backend:
        assert [backend.get(OpaqueKey(str(n))).data for n in range(40)] == [content(n, 500) for n in range(40)]
    assert "damaged" not in caplog.text


def test_removals_that_a_checkpoint_cut_off_has_made_do_not_make_its_index_look_damaged(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with opening(capacity=1 << 20, sync="none") as backend:
        backend.put_many([(message(n, 500), content(n, 500)) for n in range(60)])
        backend._checkpoints.make()
        backend.remove_many([OpaqueKey(str(n)) for n in range(40)])
        write, left = backend._store.index._write, [25]

        def failing(*args: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("killed")
            write(*args)

        monkeypatch.setattr(backend._store.index, "_write", failing)
        with pytest.raises(OSError, match="killed"):
            backend._checkpoints.make()
        monkeypatch.undo()
        shutil.copytree(tmp_path / "store", tmp_path / "killed")
    caplog.clear()
    with opening("killed", capacity=1 << 20) as backend:
        found = [backend.get(OpaqueKey(str(n))) for n in range(60)]
        assert [obj and obj.data for obj in found] == [None] * 40 + [content(n, 500) for n in range(40, 60)]
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("name", ["data", "journal"])
def test_after_a_sync_that_failed_no_later_flush_says_that_all_is_on_the_medium(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(name):
            raise OSError(errno.EIO, "Input/output error")

    with opening(sync="batch") as backend:
        backend.put(message("a", 5000), content(1, 5000))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", failing)
            with pytest.raises(StorageUnavailableError):
                backend.flush()
        with pytest.raises(StorageUnavailableError):
            backend.flush()  # the kernel has forgotten what it could not write
        assert backend.get(OpaqueKey("a")).data == content(1, 5000)
    with opening(sync="batch") as backend:
        assert backend.get(OpaqueKey("a")).data == content(1, 5000)
        backend.put(message("b", 5000), content(2, 5000))
        backend.flush()


def test_after_a_sync_that_failed_what_the_mode_commit_refuses_does_not_take_place(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opening(sync="commit") as backend:
        backend.put(message("a", 5000), content(1, 5000))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", failing)
            with pytest.raises(StorageUnavailableError):
                backend.put(message("b", 5000), content(2, 5000))
        free = backend.stats().detail["free_bytes"]
        refusals: list[Callable[[], None]] = [
            lambda: backend.put(message("c", 5000), content(3, 5000)),
            lambda: backend.put(message("a", 5000), content(4, 5000)),
            lambda: backend.remove(OpaqueKey("a")),
        ]
        for refused in refusals:
            with pytest.raises(StorageUnavailableError):
                refused()
        assert not backend.contains(OpaqueKey("c"))
        assert backend.get(OpaqueKey("a")).data == content(1, 5000)
        assert backend.stats().detail["free_bytes"] >= free
