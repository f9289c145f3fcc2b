"""A killed process loses nothing it was told is stored; a lost power, nothing it was told is flushed."""

from __future__ import annotations

import contextlib
import json
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

from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions

JOB = Path(__file__).with_name("crash_job.py")
ROOT = Path(__file__).resolve().parents[3]
PAGE = 4096
#: 300 by hand: CRASHES=300.
CRASHES = int(os.environ.get("CRASHES", "12"))

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


@pytest.mark.parametrize("sync", ["none", "batch", "commit"])
def test_a_killed_process_leaves_every_acknowledged_chunk_and_no_wrong_byte(tmp_path: Path, sync: str) -> None:
    draw = random.Random(sync)
    may: dict[str, set[State]] = {}
    directory = tmp_path / "store"
    for crash in range(CRASHES // 3):
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
        assert not any(".sick-" in p.name for p in directory.iterdir())


def torn(before: bytes, after: bytes, draw: random.Random) -> bytes:
    """What a power loss may leave of a file: each page changed since the sync is old or new, meta pages too."""
    pages = [after[at : at + PAGE] for at in range(0, len(after), PAGE)]
    for number in range(len(pages)):
        old = before[number * PAGE : (number + 1) * PAGE]
        if old != pages[number] and draw.random() < 0.5:
            pages[number] = old.ljust(PAGE, b"\0")
    return b"".join(pages)


def test_after_a_power_loss_a_batch_store_holds_all_that_was_flushed(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lms_tiers.plugins.lmdb import space, writing

    # No checkpoint but the flush's.
    monkeypatch.setattr(writing, "CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr(space.Budget, "pinned_most", 1 << 40)
    draw = random.Random(5)
    folder = tmp_path / "store"
    backend = opening(capacity=16 << 20, sync="batch")
    flushed = {}
    for n in range(60):
        length = draw.choice([100, 5000, 90_000])
        backend.put(message(n, length), content(n, length))
        flushed[str(n)] = content(n, length)
    backend.flush()
    synced = (folder / "data.mdb").read_bytes()
    kept = {name: (folder / name).read_bytes() for name in ("checkpoint", "state.json")}
    newer: dict[str, bytearray] = {}
    for n in range(25):
        backend.put(message(n, 3000), content(1000 + n, 3000))
        newer[str(n)] = content(1000 + n, 3000)
    backend.remove(OpaqueKey("30"))
    after = (folder / "data.mdb").read_bytes()
    assert (folder / "checkpoint").read_bytes() == kept["checkpoint"]
    state = json.loads(kept["state.json"])
    assert state["clean"] is False
    state["boot"] = "before the power went"
    for trial in range(6):
        copy = tmp_path / f"after {trial}"
        copy.mkdir()
        (copy / "data.mdb").write_bytes(torn(synced, after, draw))
        (copy / "checkpoint").write_bytes(kept["checkpoint"])
        (copy / "state.json").write_text(json.dumps(state))
        with opening(copy.name, capacity=16 << 20, sync="batch") as again:
            for name, data in flushed.items():
                obj = again.get(OpaqueKey(name))
                assert obj is not None, f"{name} was flushed and is lost"
                assert bytes(obj.data) == data
            again.put(message("after", 9), content(3, 9))
        assert not any(".sick-" in p.name for p in copy.iterdir())


@pytest.mark.parametrize("tool", ["check", "check with repair", "inspect", "compact"])
def test_after_a_power_loss_a_check_with_repair_keeps_all_that_was_flushed(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    from lms_tiers.plugins.lmdb import maintenance, space, writing

    def silent(chunks: int) -> Callable[[int], None]:
        return lambda done: None

    monkeypatch.setattr(writing, "CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr(space.Budget, "pinned_most", 1 << 40)
    folder, copy = tmp_path / "store", tmp_path / "after"
    with opening(capacity=16 << 20, sync="batch") as backend:
        backend.put_many([(message(n, 5000), content(n, 5000)) for n in range(40)])
        backend.flush()
        synced = (folder / "data.mdb").read_bytes()
        state = json.loads((folder / "state.json").read_text())
        copy.mkdir()
        shutil.copy(folder / "checkpoint", copy)
        for n in range(25):
            backend.put(message(f"new {n}", 3000), content(1000 + n, 3000))
        lost = torn(synced, (folder / "data.mdb").read_bytes(), random.Random(0))
    (copy / "data.mdb").write_bytes(lost)
    (copy / "state.json").write_text(json.dumps(state | {"boot": "before the power went"}))
    if tool == "inspect":
        assert maintenance.inspect(copy, silent).chunks == 40
    elif tool == "compact":
        assert maintenance.compact(copy, None, silent).chunks == 40
    else:
        report = maintenance.check(copy, tool.endswith("repair"), silent)
        assert (report.verdict, report.damaged) == ("sound", 0)
    assert not any(".sick-" in p.name for p in copy.iterdir())
    with opening(copy.name, capacity=16 << 20, sync="batch") as again:
        for n in range(40):
            obj = again.get(OpaqueKey(str(n)))
            assert obj is not None, f"{n} was flushed and is lost"
            assert obj.data == content(n, 5000)


@pytest.mark.parametrize("sync", ["none", "commit"])
def test_after_a_power_loss_without_checkpoints_there_is_no_wrong_byte(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, sync: str
) -> None:
    draw = random.Random(6)
    folder = tmp_path / "store"
    backend = opening(capacity=16 << 20, sync=sync)
    for n in range(60):
        backend.put(message(n, 5000), content(n, 5000))
    before = (folder / "data.mdb").read_bytes()
    for n in range(0, 60, 2):
        backend.put(message(f"new {n}", 5000), content(500 + n, 5000))
    after = (folder / "data.mdb").read_bytes()
    state = json.loads((folder / "state.json").read_text()) | {"boot": "before the power went"}
    for trial in range(6):
        copy = tmp_path / f"after {trial}"
        copy.mkdir()
        (copy / "data.mdb").write_bytes(torn(before, after, draw))
        (copy / "state.json").write_text(json.dumps(state))
        with opening(copy.name, capacity=16 << 20, sync=sync) as again:
            for n in range(60):
                for name, seed in ((str(n), n), (f"new {n}", 500 + n)):
                    obj = again.get(OpaqueKey(name))
                    assert obj is None or bytes(obj.data) == content(seed, 5000)


def test_a_store_that_was_closed_survives_another_boot_without_a_checkpoint(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    with opening(sync="none") as backend:
        backend.put(message("k", 1000), content(1, 1000))
    state = tmp_path / "store" / "state.json"
    told = json.loads(state.read_text())
    assert told["clean"] is True
    state.write_text(json.dumps(told | {"boot": "another"}))
    with opening(sync="none") as backend:
        assert backend.get(OpaqueKey("k")).data == content(1, 1000)
