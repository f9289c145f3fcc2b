"""`gpu`: the contract on host memory, and the same on an accelerator where one is."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    ForkedProcessError,
    InvalidBufferError,
    InvalidKeyError,
    ValueTooLargeError,
)
from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.gpu.backend import GpuBackend, GpuOptions
from lms_tiers.plugins.gpu.opening import open_streams
from lms_tiers.plugins.gpu.streams import HostStreams
from lms_tiers.plugins.gpu.transfers import cut, pairs
from tests.plugins.arena_chunks import MIB, PAGE, close_beside_calls, content, key, message
from tests.plugins.gpu.machine import needs_accelerator


@pytest.fixture(params=["host", "late", pytest.param("accelerator", marks=needs_accelerator)])
def gpu(request: pytest.FixtureRequest, make_streams: Any) -> Iterator[GpuBackend]:
    streams = {"host": HostStreams, "late": make_streams, "accelerator": lambda: open_streams("0")}[request.param]()
    with GpuBackend("gpu", 64 * MIB, GpuOptions(threads=2), streams) as backend:
        yield backend


@pytest.mark.parametrize("length", [0, 1, PAGE + 1, 2 * MIB + 1, 32 * MIB])
def test_every_way_out_gives_the_bytes_that_went_in(gpu: GpuBackend, length: int) -> None:
    data = content(length, length)
    gpu.put(message("k", length), bytearray(data))
    found = gpu.get(key("k"))
    assert found is not None
    assert (found.length, found.dtype, found.shape) == (length, torch.uint8, torch.Size([length]))
    assert bytes(found.data) == data
    assert memoryview(found.data).readonly
    buffer = bytearray(length + 3)
    assert gpu.get_into(key("k"), buffer) is not None
    assert buffer[:length] == data
    with gpu.view(key("k")) as view:
        assert view is not None
        assert b"".join(view.buffers) == data
    pieces = [bytearray(length // 3), bytearray(length)]
    assert gpu.get_scattered(key("k"), pieces) is not None
    assert b"".join(pieces)[:length] == data
    out = torch.empty(length, dtype=torch.uint8)
    assert gpu.get_tensor(key("k"), out) is out
    assert out.numpy().tobytes() == data
    gpu.put_tensor(message("t", length), out)
    again = gpu.get(key("t"))
    assert again is not None
    assert bytes(again.data) == data


def test_an_absent_key_is_none_by_every_way(gpu: GpuBackend) -> None:
    assert gpu.get(key("x")) is None
    assert gpu.get_into(key("x"), bytearray()) is None
    assert gpu.get_scattered(key("x"), []) is None
    assert gpu.get_tensor(key("x")) is None
    assert gpu.get_many([]) == []
    with gpu.view(key("x")) as view:
        assert view is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float32])
def test_tensors_come_back_on_the_device_with_dtype_and_shape(gpu: GpuBackend, dtype: torch.dtype) -> None:
    raw = torch.randint(0, 256, (2, 3, 4 * dtype.itemsize), dtype=torch.uint8)
    tensor = raw.to(gpu.device).view(dtype)
    meta = ClientMetaMessage(ClientCommand.PUT, key("t"), raw.numel(), MemoryFormat.KV_2LTD, dtype, tensor.shape)
    gpu.put_tensor(meta, tensor)
    got = gpu.get_tensor(key("t"))
    found = gpu.get(key("t"))
    assert got is not None
    assert found is not None
    assert (got.device.type, got.dtype, got.shape) == (gpu.device.type, dtype, tensor.shape)
    assert bytes(found.data) == raw.numpy().tobytes()


def test_what_get_returned_never_changes(gpu: GpuBackend) -> None:
    kept = []
    for i in range(30):
        data = content(i, 200_000)
        gpu.put(message(i % 3, len(data)), bytearray(data))
        found = gpu.get(key(i % 3))
        assert found is not None
        if i % 3:
            kept.append((found, data))
        del found
        if i % 4 == 0:
            gpu.remove(key(i % 3))
    assert gpu.stats().detail["recycled"] > 0
    gpu.close()
    for obj, data in kept:
        assert bytes(obj.data) == data


def test_an_item_that_raises_stores_those_before_it_and_none_after(gpu: GpuBackend) -> None:
    bad = message(1, 5)
    with pytest.raises(Exception, match="metadata says 5 bytes"):
        gpu.put_many([(message(0, 4), bytearray(4)), (bad, bytearray(6)), (message(2, 4), bytearray(4))])
    assert [gpu.contains(key(i)) for i in range(3)] == [True, False, False]


def test_a_batch_may_overwrite_its_own_chunks_in_a_full_arena() -> None:
    with GpuBackend("gpu", 4 * PAGE, GpuOptions(), HostStreams()) as backend:
        backend.put_many([(message(0, 2 * PAGE), bytearray([i]) * (2 * PAGE)) for i in range(5)])
        found = backend.get(key(0))
        assert found is not None
        assert set(bytes(found.data)) == {4}
        backend.put(message(1, 2 * PAGE), bytearray(2 * PAGE))
        with pytest.raises(CapacityError):
            backend.put_many([(message(2, PAGE), bytearray(PAGE))])
        with pytest.raises(ValueTooLargeError):
            backend.put(message(3, 4 * PAGE + 1), bytearray(4 * PAGE + 1))
        assert backend.stats().bytes_used == 4 * PAGE


def test_a_batch_larger_than_its_window_is_stored_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lms_tiers.plugins.gpu.backend.WINDOW", 3 * PAGE)
    with GpuBackend("gpu", 64 * PAGE, GpuOptions(), HostStreams()) as backend:
        backend.put_many([(message(i, 2 * PAGE), bytearray([i]) * (2 * PAGE)) for i in range(9)])
        found = backend.get_many([key(i) for i in range(9)])
        assert [f is not None and set(bytes(f.data)) == {i} for i, f in enumerate(found)] == [True] * 9


def test_a_batch_with_a_bad_key_leaves_no_lease(gpu: GpuBackend) -> None:
    gpu.put(message("k", PAGE), bytearray(PAGE))
    with pytest.raises(InvalidKeyError):
        gpu.get_many([key("k"), 5])  # type: ignore[list-item]  # on purpose
    gpu.remove(key("k"))
    assert gpu.stats().detail["leaving_bytes"] == 0


def test_chunks_of_other_backends_come_in_by_their_views(gpu: GpuBackend) -> None:
    source = LMSLocalBackend()
    data = content(1, 100_000)
    source.put(message("k", len(data)), bytearray(data))
    source.put(message("empty", 0), bytearray())
    wanted = [message("k", len(data)), message("k", 5), message("absent", 5), message("empty", 0)]
    assert gpu.put_from(wanted, source) == [True, False, False, True]
    found = gpu.get(key("k"))
    assert found is not None
    assert bytes(found.data) == data


def test_a_chunk_whose_copy_could_not_be_asked_for_is_not_there(gpu: GpuBackend, monkeypatch: Any) -> None:
    source = LMSLocalBackend()
    for i in range(2):
        source.put(message(i, 5000), bytearray([i + 1]) * 5000)
    start = GpuBackend._start

    def short(self: GpuBackend, chunk: Any, *rest: Any) -> None:
        if chunk.key == key(1).to_string():
            raise MemoryError
        start(self, chunk, *rest)

    monkeypatch.setattr(GpuBackend, "_start", short)
    with pytest.raises(MemoryError):
        gpu.put_from([message(i, 5000) for i in range(2)], source)
    assert gpu.list_keys() == [key(0)]
    assert gpu.stats().bytes_used == 8192
    found = gpu.get(key(0))
    assert found is not None
    assert bytes(found.data) == bytes([1]) * 5000


def test_destinations_that_do_not_fit_are_refused(gpu: GpuBackend) -> None:
    gpu.put(message("k", 100), bytearray(100))
    for read in (
        lambda: gpu.get_into(key("k"), bytearray(99)),
        lambda: gpu.get_scattered(key("k"), [bytearray(99)]),
        lambda: gpu.get_tensor(key("k"), torch.empty(99, dtype=torch.uint8)),
        lambda: gpu.get_tensor(key("k"), torch.empty(20, 20, dtype=torch.uint8).T[:, :10]),
    ):
        with pytest.raises(InvalidBufferError):
            read()
    gpu.remove(key("k"))
    assert gpu.stats().detail["leaving_bytes"] == 0


def test_locked_buffers_beyond_the_limit_are_ordinary_memory(make_streams: Any) -> None:
    streams = make_streams()
    with GpuBackend("gpu", 4 * MIB, GpuOptions(recycle=128 << 10, staging=1 << 16), streams) as backend:
        backend.put(message("k", 64 << 10), content(1, 64 << 10))
        kept = [backend.get(key("k")) for _ in range(4)]
        where = [
            streams.is_locked(torch.frombuffer(memoryview(k.data).obj, dtype=torch.uint8))
            for k in kept
            if k is not None
        ]
        assert where == [True, True, False, False]
        assert all(k is not None and bytes(k.data) == content(1, 64 << 10) for k in kept)


def test_threads_beside_each_other_see_whole_chunks_only(gpu: GpuBackend) -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(60):
                name = rng.randrange(3)
                if rng.random() < 0.5:
                    gpu.put(message(name, 50_000), bytearray([rng.randrange(256)]) * 50_000)
                else:
                    found = gpu.get(key(name))
                    if found is not None and len(set(bytes(found.data))) != 1:
                        wrong.append("torn")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for name in range(3):
        gpu.remove(key(name))
    gc.collect()
    assert gpu.stats().bytes_used == 0, "pages the device still works on count as free"


def test_close_beside_running_calls_ends_them_typed_or_whole(make_streams: Any) -> None:
    assert not close_beside_calls(GpuBackend("gpu", 8 * MIB, GpuOptions(threads=2), make_streams()))


def test_after_close_every_call_raises(gpu: GpuBackend) -> None:
    gpu.close()
    gpu.close()
    calls: list[Callable[[], object]] = [
        lambda: gpu.put(message("k", 3), bytearray(3)),
        lambda: gpu.put_many([]),
        lambda: gpu.get(key("k")),
        lambda: gpu.get_many([]),
        lambda: gpu.get_into(key("k"), bytearray(3)),
        lambda: gpu.get_scattered(key("k"), []),
        lambda: gpu.get_tensor(key("k")),
        lambda: gpu.put_tensor(message("k", 3), torch.zeros(3, dtype=torch.uint8)),
        lambda: gpu.contains(key("k")),
        lambda: gpu.list_keys(),
        lambda: gpu.stats(),
    ]
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()


def test_a_forked_child_is_refused() -> None:
    with GpuBackend("gpu", MIB, GpuOptions(), HostStreams()) as backend:
        backend.put(message("k", 3), bytearray(b"abc"))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                backend.get(key("k"))
            except ForkedProcessError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def test_lists_of_tensors_are_cut_alike() -> None:
    whole = torch.arange(20, dtype=torch.uint8)
    spans = [whole[3:8], whole[12:13], whole[15:19]]
    flat = torch.cat(spans)
    for start in range(11):
        for end in range(start, 11):
            pieces = cut(spans, start, end)
            assert torch.equal(torch.cat([flat[:0], *pieces]), flat[start:end])
    target = [torch.zeros(n, dtype=torch.uint8) for n in (7, 3)]
    for to, source in pairs(target, spans):
        to.copy_(source)
    assert torch.equal(torch.cat(target), flat)
