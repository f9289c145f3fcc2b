"""Reading back in a new process: right, wrong and missing blocks are told apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.factory import CreateStorageBackend
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.keys import BlockKeys, key_types
from lms_tiers.replay.restart import ReadBack, RestartResult, check_blocks, read_back, warm_blocks
from lms_tiers.replay.trace import Request

SIZE = 8192
BLOCKS = BlockBytes(SIZE)
KEYS = BlockKeys(SIZE, key_types("native"))


def device(tmp_path: Path) -> str:
    return f"lmdb:{tmp_path}/kv?capacity=64MiB"


def task(device: str, *blocks: int | str) -> ReadBack:
    return ReadBack(device, SIZE, "native", blocks)


@pytest.fixture
def filled(tmp_path: Path) -> str:
    """A device that holds blocks 0 to 199 and "a", and block 3 under the key of 4."""
    where = device(tmp_path)
    with CreateStorageBackend(where) as backend:
        for block in (*range(200), "a"):
            data = BLOCKS.make(3 if block == 4 else block)
            backend.put(KEYS.message(KEYS.key(block)), data)
    return where


def test_a_new_process_tells_right_wrong_and_missing_apart(filled: str) -> None:
    told: list[int] = []
    result = read_back(task(filled, *range(200), "a", 777), told.append)
    assert (result.checked, result.right, result.wrong, result.missing) == (202, 200, 1, 1)
    assert 0 < result.reopen_seconds < 60
    assert told == [64, 128, 192]


def test_what_a_persistent_device_holds_should_be_warm(tmp_path: Path) -> None:
    trace = [Request(0, 1024, 1, (1, 2)), Request(1, 1024, 1, (1, "x"))]
    with CreateStorageBackend(device(tmp_path)) as backend:
        assert warm_blocks(backend, KEYS, trace) == []
        for block in (2, "x", 99):
            backend.put(KEYS.message(KEYS.key(block)), BLOCKS.make(block))
        assert warm_blocks(backend, KEYS, trace) == [2, "x"]


def test_nothing_should_be_warm_after_memory_alone() -> None:
    backend = LMSLocalBackend()
    backend.put(KEYS.message(KEYS.key(1)), BLOCKS.make(1))
    assert warm_blocks(backend, KEYS, [Request(0, 512, 1, (1,))]) == []


def test_reopening_in_this_process_answers_the_same(filled: str) -> None:
    result = check_blocks(task(filled, 0, 4, 777), lambda done: None)
    assert result == RestartResult(result.reopen_seconds, 3, 1, 1, 1)


def test_a_device_that_cannot_be_reopened_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("not a directory")
    with pytest.raises(StorageUnavailableError, match="could not be reopened"):
        read_back(task(device(tmp_path), 1))


def test_a_process_that_dies_is_a_typed_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -9 $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(StorageUnavailableError, match="ended with status -9"):
        read_back(task(device(tmp_path), 1))


def test_an_interrupted_parent_ends_the_process_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    endless = tmp_path / "python"
    endless.write_text("#!/bin/sh\nwhile true; do echo '{\"done\": 1}'; done\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def popen(*args: object, **kwargs: object) -> subprocess.Popen[str]:
        started.append(real(*args, **kwargs))  # type: ignore[call-overload]  # what the code under test passes
        return started[-1]

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(KeyboardInterrupt):
        read_back(task(device(tmp_path), 1), interrupt)
    assert started[0].returncode == -9


def test_the_task_is_plain_json(filled: str, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"device": filled, "block_bytes": SIZE, "keys": "native", "blocks": [1, "a"]}))
    done = subprocess.run(
        [sys.executable, "-m", "lms_tiers.replay.restart", str(path)], capture_output=True, text=True, check=True
    )
    outcome = json.loads(done.stdout)
    assert (outcome["checked"], outcome["right"]) == (2, 2)
