"""What every test shares: nothing leaks, the environment is its own, outside data is found or visibly absent."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

#: A busy machine makes any example slow: no deadline.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

#: Seconds until what a test leaves behind is a leak: longer than any machine is busy.
PATIENCE = 60

#: Threads that the process keeps on purpose (shared pools) carry this prefix.
SHARED_THREADS = "lms-shared"


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.is_alive() and not t.name.startswith(SHARED_THREADS)}


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def _poll(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    gate = threading.Event()
    while condition() and time.monotonic() < deadline:
        gate.wait(0.005)


def pytest_collection_finish() -> None:
    """What imports and collection left is there to stay: no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves threads, descriptors or files in the working directory behind."""
    if request.node.get_closest_marker("leaks_allowed"):
        yield
        return
    threads, descriptors, files = _threads(), _descriptors(), set(os.listdir())
    yield
    _poll(lambda: _threads() - threads, PATIENCE)
    left = _threads() - threads
    assert not left, f"threads left behind: {sorted(t.name for t in left)}"

    def extra() -> dict[str, str]:
        now = _descriptors()
        return {
            n: now[n]
            for n in now.keys() - descriptors.keys()
            if not now[n].startswith(("/dev/", "anon_inode:[io_uring"))
        }

    if extra():
        gc.collect()
        _poll(extra, PATIENCE)
    assert not extra(), f"descriptors left behind: {extra()}"
    stray = {f for f in set(os.listdir()) - files if not f.startswith(".")}
    assert not stray, f"files left in the working directory: {stray}"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No LMS_TIERS_* setting of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith("LMS_TIERS_") and name != "LMS_TIERS_SHARED":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real traces and KV tensors beside the repository; tests that need it skip visibly without it."""
    path = Path(os.environ.get("LMS_TIERS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "traces").is_dir():
        pytest.skip(f"real traces and KV tensors are not at {path}: set LMS_TIERS_SHARED")
    return path
