"""Reads back, in a new process, what a closed device should still hold.

As a module of its own (``python -m lms_tiers.replay.restart TASK``) it is that process: it opens the device, gets and
checks every block of the task, and prints one JSON object a line: progress, then the outcome.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lms_tiers.errors import LmsTiersError, StorageUnavailableError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.keys import BlockKeys, KeyKind, key_types
from lms_tiers.replay.trace import Request
from lms_tiers.secrets import mask

_PROGRESS_BLOCKS: Final = 64


@dataclass(frozen=True, slots=True)
class RestartResult:
    """What was read back.

    Attributes
    ----------
    reopen_seconds : float
        From the call that opens the device to its return, imports not included.
    checked : int
        Blocks that should have been warm and were asked for.
    right, wrong, missing : int
        Those of them that came back as they were put, came back otherwise, or did not come back.
    """

    reopen_seconds: float
    checked: int
    right: int
    wrong: int
    missing: int


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The task of the new process."""

    device: str = dataclasses.field(repr=False)
    block_bytes: int
    keys: KeyKind
    blocks: tuple[int | str, ...]


def warm_blocks(backend: LMSBackendInterface, keys: BlockKeys, requests: Iterable[Request]) -> list[int | str]:
    """The blocks of `requests` that a flushed backend should still hold after a restart, in order of appearance."""
    held = _kept_over_restart(backend)
    blocks = dict.fromkeys(block for request in requests for block in request.hash_ids)
    return [block for block in blocks if keys.key(block).to_string() in held]


def read_back(task: ReadBack, on_progress: Callable[[int], None] | None = None) -> RestartResult:
    """Run a task in a new process; `on_progress` is told how many blocks are done.

    Raises
    ------
    StorageUnavailableError
        The new process could not open the device, or died.
    """
    with tempfile.TemporaryDirectory(prefix="lms-tiers-") as folder:
        path = Path(folder, "task.json")
        path.write_text(json.dumps(dataclasses.asdict(task)), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(path)]
        # The child imports what this process imports, wherever it was started.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            try:
                result = _follow(task, child, on_progress)
            except BaseException:
                child.kill()
                raise
    return result


def _follow(task: ReadBack, child: subprocess.Popen[str], on_progress: Callable[[int], None] | None) -> RestartResult:
    assert child.stdout is not None
    result: RestartResult | None = None
    for line in child.stdout:
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise StorageUnavailableError(mask(task.device), f"could not be reopened: {said['error']}")
        if "done" in said:
            if on_progress is not None:
                on_progress(said["done"])
        else:
            result = RestartResult(**said)
    status = child.wait()
    if result is None or status:
        raise StorageUnavailableError(mask(task.device), f"the process that reopened it ended with status {status}.")
    return result


def check_blocks(task: ReadBack, on_progress: Callable[[int], None]) -> RestartResult:
    """Open the task's device and check its blocks, in this process."""
    from lms_tiers.factory import CreateStorageBackend

    keys = BlockKeys(task.block_bytes, key_types(task.keys))
    expected = BlockBytes(task.block_bytes)
    right = wrong = missing = 0
    started = time.perf_counter()
    backend = CreateStorageBackend(task.device)
    reopen_seconds = time.perf_counter() - started
    with backend:
        for done, block in enumerate(task.blocks, 1):
            obj = backend.get(keys.key(block))
            if obj is None:
                missing += 1
            elif keys.describes(obj) and expected.matches(block, obj.data):
                right += 1
            else:
                wrong += 1
            if done % _PROGRESS_BLOCKS == 0:
                on_progress(done)
    return RestartResult(reopen_seconds, len(task.blocks), right, wrong, missing)


def _kept_over_restart(backend: LMSBackendInterface) -> set[str]:
    if backend.capabilities.persistent:
        return {key.to_string() for key in backend.list_keys()}
    return set()


def _say(**said: Any) -> None:
    print(json.dumps(said), flush=True)


def _main(argv: Sequence[str]) -> int:
    fields = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    task = ReadBack(fields["device"], fields["block_bytes"], fields["keys"], tuple(fields["blocks"]))
    try:
        result = check_blocks(task, lambda done: _say(done=done))
    except LmsTiersError as error:
        _say(error=str(error))
        return 2
    _say(**dataclasses.asdict(result))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv))
