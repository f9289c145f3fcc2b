"""Capacity is physical bytes at every moment: a store that is stopped again and again to be looked at, and killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.depth import DEPTH, some
from tests.plugins.lmdb.tier import on_disk

JOB = Path(__file__).with_name("capacity_job.py")
ROOT = Path(__file__).resolve().parents[3]
MIB = 1 << 20
#: Looks at each life of a store, and its lives: LOOKS=2000 LIVES=20 by hand.
LOOKS = int(os.environ.get("LOOKS", "60"))
LIVES = int(os.environ.get("LIVES", "2")) * DEPTH


def stopped(job: subprocess.Popen[bytes]) -> None:
    """Stop the job, and return when it stands still."""
    job.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(job.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the job ended by itself: {status}"


@pytest.mark.parametrize("sync", some(["none", "batch", "commit"], "batch".__eq__))
@pytest.mark.parametrize("capacity", some([2 * MIB, 24 * MIB], (2 * MIB).__eq__))
def test_the_files_never_take_more_than_the_capacity(tmp_path: Path, sync: str, capacity: int) -> None:
    codec = "auto" if sync == "batch" else "raw"
    directory, draw, most = tmp_path / "store", random.Random(sync), 0
    for life in range(LIVES):
        job = subprocess.Popen(
            [sys.executable, str(JOB), str(directory), str(capacity), f"{sync} {life}", sync, codec],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert job.stdout is not None
        try:
            for look in itertools.count():
                if look >= LOOKS and (most > capacity // 8 or life < LIVES - 1):
                    break
                assert look < 100 * LOOKS, "the job did nothing"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.wait(draw.random() * 0.02)
                if look == LOOKS // 3:
                    assert job.stdout.readline() == b"open\n"  # looked at while it opens, and as long again
                stopped(job)
                took = on_disk(directory, job.pid)
                assert took <= capacity, f"life {life}, look {look}: {took / capacity:.4f} of the capacity"
                most = max(most, took)
                job.send_signal(signal.SIGCONT)
        finally:
            job.kill()
            job.wait()
            job.stdout.close()
        assert on_disk(directory) <= capacity
