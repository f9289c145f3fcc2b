"""What `accelerator.py` measures: ceilings and rates, medians, every figure of one run beside its ceiling."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat

MIB: Final = 1 << 20
SIZES: Final = {"256 KiB": 256 << 10, "2 MiB": 2 * MIB, "16 MiB": 16 * MIB}


@dataclass
class Rate:
    """One row: bytes a second, and the ceiling it is held against."""

    what: str
    size: str
    gb_s: float
    ceiling: str
    ceiling_gb_s: float
    goal: float | None = None

    @property
    def ratio(self) -> float:
        return self.gb_s / self.ceiling_gb_s

    def row(self) -> dict[str, Any]:
        return {
            "what": self.what, "size": self.size, "gb_s": round(self.gb_s, 3), "ceiling": self.ceiling,
            "ceiling_gb_s": round(self.ceiling_gb_s, 3), "ratio": round(self.ratio, 3), "goal": self.goal,
        }  # fmt: skip


def key(i: int) -> CacheEngineKey:
    return CacheEngineKey("bench/model", 1, 0, i, torch.bfloat16)


def meta(i: int, nbytes: int) -> ClientMetaMessage:
    shape = torch.Size([2, 1, nbytes // 4, 1])
    return ClientMetaMessage(ClientCommand.PUT, key(i), nbytes, MemoryFormat.KV_2LTD, torch.bfloat16, shape)


def interleaved(work: dict[str, Callable[[], None]], rounds: int, *, burst: int = 1, warm: int = 2) -> dict[str, float]:
    """Median seconds of each job, taking turns of `burst` runs: a slow minute of the machine hits all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(rounds + warm):
        for name, job in work.items():
            start = time.perf_counter()
            for _ in range(burst):
                job()
            if round_ >= warm:
                taken[name].append((time.perf_counter() - start) / burst)
    return {name: statistics.median(times) for name, times in taken.items()}


# -- host memory ----------------------------------------------------------------------------------------------------


def host_rates(pinned: LMSBackendInterface, size: str, nbytes: int, rounds: int) -> list[Rate]:
    """`pinned` against memcpy between ordinary buffers, warm and fresh, of the same size in the same turns."""
    count = max(4, min(64, 256 * MIB // nbytes))
    source = np.random.default_rng(1).integers(0, 256, (count, nbytes), dtype=np.uint8)
    warm = np.zeros(nbytes, dtype=np.uint8)
    tensor = torch.empty(nbytes, dtype=torch.uint8)
    kept: list[bytearray] = []
    turn = iter(range(10**9))

    def memcpy_warm() -> None:
        np.copyto(warm, source[next(turn) % count])

    def memcpy_fresh() -> None:
        if len(kept) * nbytes > 256 * MIB:
            kept.clear()
        kept.append(bytearray(memoryview(source[next(turn) % count])))

    for i in range(count):
        pinned.put(meta(i, nbytes), bytearray(source[i].tobytes()))
    chunks = [bytearray(source[i].tobytes()) for i in range(4)]
    keys, metas = [key(i) for i in range(count)], [meta(i, nbytes) for i in range(count)]

    def view() -> None:
        with pinned.view(keys[next(turn) % count]) as found:
            assert found is not None

    seconds = interleaved(
        {
            "memcpy, warm": memcpy_warm,
            "memcpy, fresh": memcpy_fresh,
            "get": lambda: _must(pinned.get(keys[next(turn) % count])),
            "get_into": lambda: _must(pinned.get_into(keys[next(turn) % count], warm)),
            "get_tensor": lambda: _must(pinned.get_tensor(keys[next(turn) % count])),
            "get_tensor, out": lambda: _must(pinned.get_tensor(keys[next(turn) % count], tensor)),
            "view": view,
            "put": lambda: pinned.put(metas[next(turn) % count], chunks[next(turn) % 4]),
        },
        rounds,
        burst=8,
    )
    for i in range(count):
        pinned.remove(key(i))
    ceiling = nbytes / seconds["memcpy, warm"] / 1e9
    goals = {"get": 0.8} if size == "2 MiB" else {}
    return [
        Rate(f"pinned {name}" if "memcpy" not in name else name, size, nbytes / s / 1e9, "memcpy, warm", ceiling,
             goals.get(name))
        for name, s in seconds.items()
    ]  # fmt: skip


def _must(found: object) -> None:
    assert found is not None


# -- the device -----------------------------------------------------------------------------------------------------


class Device:
    """The accelerator as the benchmark sees it: synchronise, and the ceilings of one large copy each way."""

    def __init__(self) -> None:
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is None or not torch.accelerator.is_available():
            raise SystemExit("torch sees no accelerator on this machine")
        self.device = torch.device(accelerator.type, 0)
        self.module: Any = torch.get_device_module(self.device)

    @property
    def name(self) -> str:
        with suppress(Exception):
            return str(self.module.get_device_name(self.device))
        return str(self.device)

    def synchronize(self) -> None:
        self.module.synchronize(self.device)

    def timed(self, job: Callable[[], None]) -> Callable[[], None]:
        """The job and everything it asked of the device."""

        def run() -> None:
            job()
            self.synchronize()

        return run

    def ceilings(self, rounds: int) -> dict[str, float]:
        """GB/s of one large copy: host to device, device to host (both page-locked), and within the device."""
        nbytes = 256 * MIB
        host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        one = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        two = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        seconds = interleaved(
            {
                "H2D": self.timed(lambda: _copy(one, host)),
                "D2H": self.timed(lambda: _copy(host, one)),
                "D2D": self.timed(lambda: _copy(two, one)),
            },
            rounds,
        )
        return {name: nbytes / s / 1e9 for name, s in seconds.items()}


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    target.copy_(source, non_blocking=True)


def device_rates(
    device: Device, gpu: LMSBackendInterface, pinned: LMSBackendInterface, size: str, nbytes: int, rounds: int
) -> list[Rate]:
    """Batches of about 256 MiB every way in and out, taking turns with the ceilings."""
    count = max(4, 256 * MIB // nbytes)
    total = count * nbytes
    metas = [meta(i, nbytes) for i in range(count)]
    keys = [key(i) for i in range(count)]
    data = [
        bytearray(np.random.default_rng(i).integers(0, 256, nbytes, dtype=np.uint8).tobytes()) for i in range(count)
    ]
    pinned.put_many(list(zip(metas, data, strict=True)))
    gpu.put_many(list(zip(metas, data, strict=True)))
    tensors = [torch.empty(nbytes, dtype=torch.uint8, device=device.device) for _ in range(count)]
    every = Check(data, nbytes)

    def moved(held: Sequence[bool]) -> None:
        assert all(held)

    def out_tensors() -> None:
        for k, tensor in zip(keys, tensors, strict=True):
            gpu.get_tensor(k, tensor)

    def in_tensors() -> None:
        for m, tensor in zip(metas, tensors, strict=True):
            gpu.put_tensor(m, tensor)

    seconds = interleaved(
        {
            "gpu put_from pinned": device.timed(lambda: moved(gpu.put_from(metas, pinned))),
            "pinned put_from gpu": device.timed(lambda: moved(pinned.put_from(metas, gpu))),
            "gpu put_many": device.timed(lambda: gpu.put_many(list(zip(metas, data, strict=True)))),
            "gpu get_many": device.timed(lambda: every.note(gpu.get_many(keys))),
            "gpu get_tensor, out": device.timed(out_tensors),
            "gpu put_tensor": device.timed(in_tensors),
        },
        rounds,
    )
    every.check(gpu.get_many(keys))
    limits = device.ceilings(max(3, rounds))
    against = {
        "gpu put_from pinned": ("H2D", 0.9 if size == "2 MiB" else None),
        "pinned put_from gpu": ("D2H", 0.9 if size == "2 MiB" else None),
        "gpu put_many": ("H2D", None),
        "gpu get_many": ("D2H", 0.9 if size == "2 MiB" else None),
        "gpu get_tensor, out": ("D2D", 0.8 if size == "16 MiB" else None),
        "gpu put_tensor": ("D2D", None),
    }
    for k in keys:
        gpu.remove(k)
        pinned.remove(k)
    return [
        Rate(name, size, total / s / 1e9, against[name][0], limits[against[name][0]], against[name][1])
        for name, s in seconds.items()
    ]


class Check:
    """Bytes that come back are compared, outside the measured turns."""

    def __init__(self, data: list[bytearray], nbytes: int) -> None:
        self.data = data
        self.nbytes = nbytes

    def note(self, found: Sequence[Any]) -> None:
        assert all(f is not None and f.length == self.nbytes for f in found)

    def check(self, found: Sequence[Any]) -> None:
        for f, expected in zip(found, self.data, strict=True):
            if f is None or bytes(f.data) != bytes(expected):
                raise SystemExit("wrong bytes came back from the device")


def small_operations(device: Device, gpu: LMSBackendInterface, rounds: int) -> dict[str, float]:
    """Microseconds an operation takes the caller at 64 KiB."""
    nbytes, n = 64 << 10, 200
    data = [bytearray(nbytes) for _ in range(n)]
    tensor = torch.zeros(nbytes, dtype=torch.uint8, device=device.device)
    metas, keys = [meta(i, nbytes) for i in range(n)], [key(i) for i in range(n)]

    def each(call: Callable[[int], object]) -> Callable[[], None]:
        def run() -> None:
            for i in range(n):
                call(i)

        return run

    jobs = {
        "put_tensor": each(lambda i: gpu.put_tensor(metas[i], tensor)),
        "get_tensor, out": each(lambda i: gpu.get_tensor(keys[i], tensor)),
        "put": each(lambda i: gpu.put(metas[i], data[i])),
        "get": each(lambda i: gpu.get(keys[i])),
        "put_many of 200": lambda: gpu.put_many(list(zip(metas, data, strict=True))),
        "get_many of 200": lambda: _must(gpu.get_many(keys)),
    }
    seconds = interleaved({name: device.timed(job) for name, job in jobs.items()}, rounds)
    for k in keys:
        gpu.remove(k)
    return {name: s / n * 1e6 for name, s in seconds.items()}


def beside_a_kernel(device: Device, gpu: LMSBackendInterface) -> dict[str, Any]:
    """Puts and gets of host bytes while the default stream computes: they end before it, so nobody waited for it."""
    nbytes, n = 2 * MIB, 32
    data = [bytearray([i]) * nbytes for i in range(n)]
    left = torch.randn(4096, 4096, device=device.device)
    for _ in range(3):
        left = (left @ left).clamp_(-1, 1)
    device.synchronize()
    start = time.perf_counter()
    for _ in range(200):
        left = (left @ left).clamp_(-1, 1)
    done = device.module.Event()
    done.record(device.module.current_stream(device.device))
    gpu.put_many([(meta(i, nbytes), data[i]) for i in range(n)])
    found = gpu.get_many([key(i) for i in range(n)])
    moved = time.perf_counter() - start
    still_running = not done.query()
    device.synchronize()
    kernel = time.perf_counter() - start
    right = all(f is not None and bytes(f.data[:9]) == bytes([i]) * 9 for i, f in enumerate(found))
    for i in range(n):
        gpu.remove(key(i))
    return {"kernel_s": kernel, "moved_s": moved, "kernel_still_running": still_running, "right": right}
