"""A device on the CPU whose copies happen as late, and in as odd an order, as its fences allow."""

from __future__ import annotations

import ctypes
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from lms_tiers.arena.recycle import map_block


@dataclass(eq=False)
class LateFence:
    passed: bool = False


@dataclass(eq=False)
class LateStream:
    work: deque[Callable[[], bool]] = field(default_factory=deque)


class DeferredStreams:
    """`Streams` that only notes work. Work of a stream runs in order, streams run in random order, and nothing runs
    before somebody joins a fence or a seeded coin says so.

    As on a real device a copy reads and writes raw memory when it runs, and keeps nothing alive: a buffer used again
    too early shows as wrong bytes. Ordinary host memory is copied before `copy` returns, as drivers do it.
    """

    granule = 1

    def __init__(self, seed: int = 0, device_bytes: int = 1 << 30) -> None:
        self.device = torch.device("cpu")
        self.random = random.Random(seed)
        self.device_bytes = device_bytes
        self.streams: list[LateStream] = []
        self.default = self.stream()
        self.host_joins = 0
        self.fail_copies = 0
        self.good_copies = 0  # so many go well before the failing ones
        self._mine = threading.local()
        self._lock = threading.RLock()
        self._memory: list[tuple[int, int, str, Any]] = []  # address, end, "device" or "locked", what keeps it mapped

    # -- what the tests see ----------------------------------------------------------------------------------------

    @contextmanager
    def using(self, stream: LateStream) -> Iterator[None]:
        before = self.current()
        self._mine.stream = stream
        try:
            yield
        finally:
            self._mine.stream = before

    def kernel(self, work: Callable[[], object]) -> None:
        """Ask the current stream for work of a caller's own."""
        with self._lock:
            self.current().work.append(lambda: (work(), True)[1])

    def finish(self) -> None:
        """Run everything."""
        for stream in list(self.streams):
            self._run_until(self.record(stream))

    def locked_tensor(self, nbytes: int) -> torch.Tensor:
        return torch.frombuffer(self.locked(nbytes), dtype=torch.uint8)

    # -- Streams ---------------------------------------------------------------------------------------------------

    def memory(self, nbytes: int) -> torch.Tensor:
        return self._map(nbytes, "device")

    def empty(self, nbytes: int) -> torch.Tensor:
        return self._map(max(nbytes, 1), "device")[:nbytes]

    def holds(self, tensor: torch.Tensor) -> bool:
        return self._where(tensor) == "device"

    def locked(self, nbytes: int) -> Any:
        return self._map(nbytes, "locked").numpy()

    def is_locked(self, host: torch.Tensor) -> bool:
        return self._where(host) == "locked"

    def stream(self) -> LateStream:
        stream = LateStream()
        self.streams.append(stream)
        return stream

    def current(self) -> LateStream:
        stream: LateStream = getattr(self._mine, "stream", self.default)
        return stream

    def record(self, stream: LateStream) -> LateFence:
        fence = LateFence()

        def run() -> bool:
            fence.passed = True
            return True

        with self._lock:
            stream.work.append(run)
        return fence

    def wait(self, stream: LateStream, fence: LateFence) -> None:
        with self._lock:
            stream.work.append(lambda: fence.passed)

    def done(self, fence: LateFence) -> bool:
        with self._lock:
            for _ in range(self.random.randrange(3)):
                self._step()
            return fence.passed

    def join(self, fence: LateFence) -> None:
        self.host_joins += 1
        self._run_until(fence)

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: LateStream) -> None:
        assert target.numel() == source.numel()
        if self.good_copies:
            self.good_copies -= 1
        elif self.fail_copies:
            self.fail_copies -= 1
            raise RuntimeError("the device is lost\nand a long trace")
        to, start, size = target.data_ptr(), source.data_ptr(), target.numel()

        def run() -> bool:
            ctypes.memmove(to, start, size)
            return True

        with self._lock:
            stream.work.append(run)
        if "" in (self._where(target), self._where(source)):
            self._run_until(self.record(stream))

    # -- the device at work ----------------------------------------------------------------------------------------

    def _map(self, nbytes: int, kind: str) -> torch.Tensor:
        tensor = torch.frombuffer(map_block(nbytes), dtype=torch.uint8)
        self._memory.append((tensor.data_ptr(), tensor.data_ptr() + nbytes, kind, tensor))
        return tensor

    def _where(self, tensor: torch.Tensor) -> str:
        at = tensor.data_ptr()
        return next((kind for start, end, kind, _ in self._memory if start <= at < end), "")

    def _step(self) -> bool:
        """One piece of work of a random stream that can go on; False where none can."""
        ready = [stream for stream in self.streams if stream.work]
        self.random.shuffle(ready)
        for stream in ready:
            if stream.work[0]():
                stream.work.popleft()
                return True
        return False

    def _run_until(self, fence: LateFence) -> None:
        with self._lock:
            while not fence.passed:
                assert self._step(), "streams wait for each other for ever"


@pytest.fixture
def streams() -> DeferredStreams:
    return DeferredStreams()


@pytest.fixture
def make_streams() -> type[DeferredStreams]:
    return DeferredStreams
