"""Every command of docs/fleet.md, typed in order in one empty directory, over a real Redis Cluster."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.depth import nightly
from tests.docs.blocks import SHOWN, blocks
from tests.plugins.redis.engine import needs_server, until

pytestmark = [needs_server, nightly, pytest.mark.deep, pytest.mark.leaks_allowed]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fleet.md"
#: Ports of the page are 7001 to 7007.
NODES = 7


def free_ports() -> str:
    """Three digits that give free ports in place of the page's `700`; a node's bus listens 10,000 above it."""
    draw = random.SystemRandom()
    while True:
        base = draw.randrange(1100, 2270)  # below those that connections take
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in (10 * base + i + bus for i in range(1, NODES + 1) for bus in (0, 10_000)):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return str(base)


def inhabitants(folder: Path) -> list[int]:
    """Processes that work in `folder` or below, whatever has become of those that started them."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it is none, has ended, or is another user's
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
    return found


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; whatever was started in it and is there still is ended, also what a block that failed left."""
    yield tmp_path

    def empty() -> bool:
        for pid in (left := inhabitants(tmp_path)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return not left

    until(empty)


@pytest.mark.parametrize("ends", ["exit 1", "sleep 1000"])
def test_what_a_page_that_fails_has_started_is_ended(where: Path, ends: str) -> None:
    started = "mkdir redis-1 && redis-server --port 0 --unixsocket s --dir $PWD/redis-1 --daemonize yes --save '' && "
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["bash", "-c", f"{started} until [ -S redis-1/s ]; do :; done; {ends}"],
            cwd=where,
            check=False,
            capture_output=True,
            timeout=5,
        )
    assert until(lambda: inhabitants(where))


def test_one_host_becomes_a_fleet(where: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "LMS_TIERS", "KV_"))}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    ports, ran = free_ports(), 0
    for block in blocks(PAGE):
        if block.language in SHOWN:
            continue
        assert block.skipped is None
        words = {"console": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}
        body = block.body.replace("700", ports)
        done = subprocess.run(
            [*words[block.language], body],
            cwd=where,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"docs/fleet.md:{block.line}\n{body}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 10
    until(lambda: not inhabitants(where))
