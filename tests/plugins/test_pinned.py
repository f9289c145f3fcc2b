"""`pinned`: the bytes of a put come back, never change, fit the capacity; nothing is imported to list it."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lms_tiers.device import parse_device
from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    ConfigError,
    ForkedProcessError,
    InvalidBufferError,
    InvalidChunkError,
    StorageUnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from lms_tiers.factory import open_backend
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, LMSMemoryObj, MemoryFormat
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions

MIB = 1 << 20
PAGE = 4096


def key(name: object) -> CacheEngineKey:
    return CacheEngineKey.from_string(f"chunk {name}")


def message(name: object, length: int, dtype: torch.dtype | None = torch.uint8) -> ClientMetaMessage:
    size = dtype.itemsize if dtype is not None else 1
    shape = torch.Size([length // size])
    return ClientMetaMessage(ClientCommand.PUT, key(name), length, MemoryFormat.KV_2LTD, dtype, shape)


def content(seed: int, length: int) -> bytearray:
    return bytearray(random.Random(seed).randbytes(length))


@pytest.fixture
def pinned() -> Iterator[PinnedBackend]:
    with PinnedBackend(64 * MIB, PinnedOptions(threads=2)) as backend:
        yield backend


def open_text(device: str) -> LMSBackendInterface:
    return open_backend(parse_device(device).tiers[0])


@pytest.mark.parametrize("length", [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * MIB, 2 * MIB + 1, 32 * MIB])
def test_every_way_out_gives_the_bytes_that_went_in(pinned: PinnedBackend, length: int) -> None:
    data = content(length, length)
    pinned.put(message("k", length), bytearray(data))
    found = pinned.get(key("k"))
    assert found is not None
    assert (found.length, found.dtype, found.shape) == (length, torch.uint8, torch.Size([length]))
    assert bytes(found.data) == data
    buffer = bytearray(length + 3)
    assert pinned.get_into(key("k"), buffer) is not None
    assert buffer[:length] == data
    assert buffer[length:] == bytes(3)
    with pinned.view(key("k")) as view:
        assert view is not None
        assert b"".join(view.buffers) == data
    tensor = pinned.get_tensor(key("k"))
    assert tensor is not None
    assert tensor.numpy().tobytes() == data
    pieces = [bytearray(length // 3), bytearray(0), bytearray(length)]
    assert pinned.get_scattered(key("k"), pieces) is not None
    assert b"".join(pieces)[:length] == data


def test_an_absent_key_is_none_by_every_way(pinned: PinnedBackend) -> None:
    assert pinned.get(key("x")) is None
    assert pinned.get_into(key("x"), bytearray()) is None
    assert pinned.get_scattered(key("x"), []) is None
    assert pinned.get_tensor(key("x")) is None
    assert pinned.stored_bytes(key("x")) is None
    with pinned.view(key("x")) as view:
        assert view is None
    pinned.remove(key("x"))
    assert not pinned.contains(key("x"))


def test_chunks_lie_in_pieces_where_no_long_run_is_left() -> None:
    with PinnedBackend(16 * PAGE, PinnedOptions()) as backend:
        for i in range(16):
            backend.put(message(i, PAGE), bytearray(PAGE))
        for i in range(0, 16, 2):
            backend.remove(key(i))
        data = content(1, 8 * PAGE - 5)
        backend.put(message("big", len(data)), bytearray(data))
        with backend.view(key("big")) as view:
            assert view is not None
            assert len(view.buffers) == 8
            assert b"".join(view.buffers) == data
        found = backend.get(key("big"))
        assert found is not None
        assert bytes(found.data) == data
        out = torch.empty(len(data), dtype=torch.uint8)
        assert backend.get_tensor(key("big"), out) is out
        assert out.numpy().tobytes() == data
        pieces = [bytearray(PAGE + 1), bytearray(7 * PAGE)]
        backend.get_scattered(key("big"), pieces)
        assert b"".join(pieces)[: len(data)] == data


# -- nothing that was handed out ever changes -----------------------------------------------------------------------


def test_what_get_returned_never_changes(pinned: PinnedBackend) -> None:
    kept: list[tuple[LMSMemoryObj, bytearray]] = []
    for round_ in range(40):
        data = content(round_, 300_000)
        pinned.put(message(round_ % 3, len(data)), bytearray(data))
        found = pinned.get(key(round_ % 3))
        assert found is not None
        if round_ % 2:
            kept.append((found, data))
        del found
        if round_ % 5 == 0:
            pinned.remove(key(round_ % 3))
    assert pinned.stats().detail["recycled"] > 0, "buffers of dropped results were used again"
    pinned.close()
    for obj, expected in kept:
        assert bytes(obj.data) == expected


def test_the_data_of_get_cannot_be_written(pinned: PinnedBackend) -> None:
    pinned.put(message("k", 100), bytearray(100))
    found = pinned.get(key("k"))
    assert found is not None
    assert memoryview(found.data).readonly


def test_a_view_is_over_at_the_end_of_its_block(pinned: PinnedBackend) -> None:
    pinned.put(message("k", PAGE), bytearray(PAGE))
    with pinned.view(key("k")) as view:
        assert view is not None
        buffer = view.buffers[0]
        assert buffer.readonly
    with pytest.raises(ValueError, match="released"):
        buffer[0]


def test_pages_that_a_view_of_a_view_still_shows_are_not_used_again() -> None:
    with PinnedBackend(2 * PAGE, PinnedOptions()) as backend:
        data = content(1, PAGE)
        backend.put(message("old", PAGE), bytearray(data))
        with backend.view(key("old")) as view:
            assert view is not None
            kept = np.frombuffer(view.buffers[0], dtype=np.uint8)
        backend.remove(key("old"))
        assert backend.stats().detail["leaving_bytes"] == PAGE
        backend.put(message("a", PAGE), bytearray(PAGE))
        with pytest.raises(CapacityError):
            backend.put(message("b", PAGE), bytearray(PAGE))
        assert kept.tobytes() == data
        del kept, view
        gc.collect()
        backend.put(message("b", PAGE), bytearray(PAGE))
        assert backend.stats().bytes_used == 2 * PAGE


def test_a_view_outlives_close() -> None:
    backend = PinnedBackend(MIB, PinnedOptions())
    data = content(1, PAGE)
    backend.put(message("k", PAGE), bytearray(data))
    with backend.view(key("k")) as view:
        backend.close()
        assert view is not None
        assert bytes(view.buffers[0]) == data


def test_an_error_inside_a_view_ends_its_lease(pinned: PinnedBackend) -> None:
    pinned.put(message("k", PAGE), bytearray(PAGE))
    with pytest.raises(ZeroDivisionError), pinned.view(key("k")):
        raise ZeroDivisionError
    pinned.remove(key("k"))
    gc.collect()
    assert pinned.stats().bytes_used == 0


# -- the budget -----------------------------------------------------------------------------------------------------


class PinnedAgainstADict(RuleBasedStateMachine):
    """Contents, sizes and refusals equal a dictionary with a page-granular budget."""

    PAGES = 20

    def __init__(self) -> None:
        super().__init__()
        self.backend = PinnedBackend(self.PAGES * PAGE + 77, PinnedOptions(recycle=1 << 20))
        self.model: dict[str, bytes] = {}

    def teardown(self) -> None:
        self.backend.close()

    @staticmethod
    def pages(length: int) -> int:
        return -(-length // PAGE)

    @rule(
        name=st.sampled_from("abcd"),
        length=st.integers(0, 21 * PAGE),
        seed=st.integers(0, 3),
        way=st.sampled_from(["bytes", "tensor", "from"]),
    )
    def put(self, name: str, length: int, seed: int, way: str) -> None:
        data = content(seed, length)
        free = self.PAGES - sum(self.pages(len(d)) for d in self.model.values())
        try:
            if way == "tensor":
                self.backend.put_tensor(message(name, length), torch.from_numpy(np.frombuffer(data, dtype=np.uint8)))
            elif way == "from":
                source = LMSLocalBackend()
                source.put(message(name, length), bytearray(data))
                assert self.backend.put_from([message(name, length), message("absent", 1)], source) == [True, False]
            else:
                self.backend.put(message(name, length), bytearray(data))
        except ValueTooLargeError:
            assert self.pages(length) > self.PAGES
        except CapacityError:
            # `put_from` asks for a page for "absent" too.
            assert self.pages(length) + (way == "from") > free
            if way == "from" and self.pages(length) <= free:
                self.model[name] = bytes(data)
        else:
            assert self.pages(length) <= free
            self.model[name] = bytes(data)

    @rule(name=st.sampled_from("abcd"))
    def remove(self, name: str) -> None:
        self.backend.remove(key(name))
        self.model.pop(name, None)

    @invariant()
    def equal(self) -> None:
        assert {k.to_string() for k in self.backend.list_keys()} == {f"chunk {n}" for n in self.model}
        used = 0
        for name, data in self.model.items():
            found = self.backend.get(key(name))
            assert found is not None
            assert bytes(found.data) == data
            stored = self.backend.stored_bytes(key(name))
            assert stored == self.pages(len(data)) * PAGE <= self.backend.reserve_bytes(len(data))
            used += stored
        stats = self.backend.stats()
        assert (stats.keys, stats.bytes_used) == (len(self.model), used)
        assert stats.bytes_peak is not None
        assert used <= stats.bytes_peak <= self.backend.usable_bytes <= self.PAGES * PAGE + 77
        assert sum(info.stored_bytes for info in self.backend.scan()) == used


TestPinnedAgainstADict = PinnedAgainstADict.TestCase
TestPinnedAgainstADict.settings = settings(max_examples=40, deadline=None)


def test_memory_is_taken_once_and_never_grows(pinned: PinnedBackend) -> None:
    assert pinned._memory is not None
    assert pinned._memory.bytes.nbytes == 64 * MIB
    with pytest.raises(ValueTooLargeError):
        pinned.put(message("k", 64 * MIB + 1), bytearray(64 * MIB + 1))
    assert pinned.list_keys() == []


def test_a_tier_below_lets_go_of_the_pages_it_read_with_the_call(tmp_path: Path) -> None:
    with open_text("pinned?capacity=1MiB&pin=off") as pinned, open_text(f"lmdb:{tmp_path}?capacity=64MiB") as disk:
        gc.collect()
        gc.disable()
        try:
            metas = [message(i, 200_000) for i in range(3)]
            for i, meta in enumerate(metas):
                pinned.put(meta, content(i, 200_000))
            assert disk.put_from(metas, pinned) == [True] * 3
            for meta in metas:
                pinned.remove(meta.key)
            poll = threading.Event()
            for _ in range(200):
                if not pinned.stats().bytes_used:
                    break
                poll.wait(0.01)
            assert pinned.stats().bytes_used == 0, "only the collector would end the lease"
        finally:
            gc.enable()


# -- threads --------------------------------------------------------------------------------------------------------


def test_readers_and_writers_beside_each_other_see_whole_chunks_only() -> None:
    length = 100_000
    with PinnedBackend(8 * 25 * PAGE, PinnedOptions(threads=1)) as backend:
        wrong: list[str] = []
        start = threading.Barrier(4)

        def work(seed: int) -> None:
            rng = random.Random(seed)
            start.wait()
            for _ in range(150):
                name = rng.randrange(3)
                kind = rng.random()
                if kind < 0.35:
                    backend.put(message(name, length), bytearray([rng.randrange(256)]) * length)
                elif kind < 0.45:
                    backend.remove(key(name))
                elif kind < 0.8:
                    found = backend.get(key(name))
                    if found is not None and len(set(bytes(found.data))) != 1:
                        wrong.append("torn get")
                else:
                    with backend.view(key(name)) as view:
                        if view is not None and len(set(b"".join(view.buffers))) != 1:
                            wrong.append("torn view")

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        for name in range(3):
            backend.remove(key(name))
        gc.collect()
        assert backend.stats().bytes_used == 0


def test_no_lock_is_held_during_a_copy(pinned: PinnedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned.put(message("a", PAGE), bytearray(PAGE))
    copying, go_on = threading.Event(), threading.Event()
    original = pinned._copier.scatter

    def slow(*args: object) -> None:
        copying.set()
        assert go_on.wait(30)
        original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pinned._copier, "scatter", slow)
    writer = threading.Thread(target=pinned.put, args=(message("b", PAGE), bytearray(PAGE)))
    writer.start()
    assert copying.wait(30)
    assert pinned.get(key("a")) is not None
    assert pinned.get(key("b")) is None
    pinned.remove(key("a"))
    go_on.set()
    writer.join()
    assert pinned.get(key("b")) is not None


def test_close_beside_running_calls_ends_them_typed_or_whole() -> None:
    backend = PinnedBackend(8 * MIB, PinnedOptions(threads=2))
    started = threading.Barrier(4)
    unexpected: list[BaseException] = []

    def work(seed: int) -> None:
        started.wait()
        try:
            while True:
                backend.put(message(seed, 200_000), bytearray([seed]) * 200_000)
                found = backend.get(key(seed))
                assert found is not None
                assert set(bytes(found.data)) == {seed}
        except BackendClosedError:
            return
        except BaseException as error:
            unexpected.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    backend.close()
    for thread in threads:
        thread.join()
    assert not unexpected


# -- faults ---------------------------------------------------------------------------------------------------------


def test_a_failed_copy_keeps_the_old_chunk(pinned: PinnedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned.put(message("k", 10), bytearray(b"0123456789"))

    def broken(*args: object) -> None:
        raise RuntimeError("device lost\nlong trace")

    monkeypatch.setattr(pinned._copier, "scatter", broken)
    with pytest.raises(StorageUnavailableError, match=r"pinned: device lost$"):
        pinned.put(message("k", 20), bytearray(20))
    with pytest.raises(StorageUnavailableError):
        pinned.put_tensor(message("k", 20), torch.zeros(20, dtype=torch.uint8))
    found = pinned.get(key("k"))
    assert found is not None
    assert bytes(found.data) == b"0123456789"
    assert pinned.stats().bytes_used == PAGE


def test_a_source_that_changed_meanwhile_is_not_stored(pinned: PinnedBackend) -> None:
    source = LMSLocalBackend()
    source.put(message("k", 30), bytearray(30))
    pinned.put(message("k", 5), bytearray(b"older"))
    for other in (message("k", 29), message("k", 31), message("k", 30, torch.int8)):
        assert pinned.put_from([other], source) == [False]
    found = pinned.get(key("k"))
    assert found is not None
    assert bytes(found.data) == b"older"
    source.close()
    with pytest.raises(BackendClosedError):
        pinned.put_from([message("k", 30)], source)
    assert pinned.stats().bytes_used == PAGE


def test_destinations_that_do_not_fit_are_refused_untouched(pinned: PinnedBackend) -> None:
    pinned.put(message("k", 100), bytearray(b"x" * 100))
    small = bytearray(99)
    with pytest.raises(InvalidBufferError):
        pinned.get_into(key("k"), small)
    with pytest.raises(InvalidBufferError):
        pinned.get_scattered(key("k"), [small])
    with pytest.raises(InvalidBufferError):
        pinned.get_into(key("k"), b"read only" * 20)
    with pytest.raises(InvalidBufferError):
        pinned.get_tensor(key("k"), torch.empty(99, dtype=torch.uint8))
    assert small == bytearray(99)
    with pytest.raises(InvalidChunkError):
        pinned.put(message("k", 3), bytearray(4))
    pinned.remove(key("k"))
    assert pinned.stats().bytes_used == 0, "no lease was left behind"


def test_after_close_every_call_raises(pinned: PinnedBackend) -> None:
    pinned.put(message("k", 3), bytearray(b"abc"))
    pinned.close()
    pinned.close()
    calls: list[Callable[[], object]] = [
        lambda: pinned.put(message("k", 3), bytearray(b"abc")),
        lambda: pinned.get(key("k")),
        lambda: pinned.contains(key("k")),
        lambda: pinned.contains_prefix([key("k")]),
        lambda: pinned.list_keys(),
        lambda: pinned.remove(key("k")),
        lambda: pinned.stats(),
        lambda: pinned.get_into(key("k"), bytearray(3)),
        lambda: pinned.get_tensor(key("k")),
        lambda: pinned.put_tensor(message("k", 3), torch.zeros(3, dtype=torch.uint8)),
        lambda: list(pinned.scan()),
        lambda: pinned.stored_bytes(key("k")),
        lambda: pinned.view(key("k")).__enter__(),
    ]
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()


def test_a_forked_child_is_refused_and_the_parent_goes_on(pinned: PinnedBackend) -> None:
    pinned.put(message("k", 3), bytearray(b"abc"))
    found = pinned.get(key("k"))
    assert found is not None
    child = os.fork()
    if child == 0:
        status = 1
        try:
            pinned.get(key("k"))
        except ForkedProcessError:
            status = 0 if bytes(found.data) == b"abc" else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    again = pinned.get(key("k"))
    assert again is not None
    assert bytes(again.data) == b"abc"


# -- tensors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2, torch.float32, torch.bool, torch.complex64])
def test_tensors_keep_dtype_shape_and_every_bit(pinned: PinnedBackend, dtype: torch.dtype) -> None:
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (2, 3, 4 * dtype.itemsize), dtype=torch.uint8)
    tensor = raw.view(dtype)
    strided = tensor.transpose(0, 1)
    meta = ClientMetaMessage(ClientCommand.PUT, key("t"), raw.numel(), MemoryFormat.KV_2LTD, dtype, strided.shape)
    expected = strided.contiguous().view(torch.uint8).numpy().tobytes()
    pinned.put_tensor(meta, strided)
    raw.zero_()
    found = pinned.get_tensor(key("t"))
    assert found is not None
    assert (found.dtype, found.shape) == (dtype, strided.shape)
    assert found.view(torch.uint8).numpy().tobytes() == expected
    out = torch.empty_like(found)
    assert pinned.get_tensor(key("t"), out) is out
    assert out.view(torch.uint8).numpy().tobytes() == expected


def test_metadata_that_makes_no_tensor_of_the_bytes_gives_the_bytes(pinned: PinnedBackend) -> None:
    for name, length, dtype, size in (("a", 6, None, 9), ("b", 6, torch.float32, 2), ("c", 8, torch.float32, 5)):
        meta = ClientMetaMessage(ClientCommand.PUT, key(name), length, MemoryFormat.BINARY, dtype, torch.Size([size]))
        pinned.put(meta, bytearray(length))
    for name, shape in (("a", (6,)), ("b", (6,)), ("c", (2,))):
        found = pinned.get_tensor(key(name))
        assert found is not None
        assert found.shape == shape


# -- opening --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("pinned", "needs a capacity"),
        ("pinned?capacity=4095B", "less than a page"),
        ("pinned:somewhere?capacity=1MiB", "has no location"),
        ("pinned?capacity=1MiB&page=5000B", "power of two"),
        ("pinned?capacity=1MiB&pin=maybe", "pin"),
        ("pinned?capacity=1MiB&pagge=4KiB", "page"),
    ],
)
def test_a_device_text_that_does_not_work_says_why(device: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_text(device)


def test_pin_require_needs_an_accelerator() -> None:
    if torch.cuda.is_available():
        with open_text("pinned?capacity=4MiB&pin=require") as backend:
            assert backend.stats().detail["page_locked"] == 1
    else:
        with pytest.raises(StorageUnavailableError, match="pin=auto"):
            open_text("pinned?capacity=4MiB&pin=require")


def test_options_reach_the_backend() -> None:
    with open_text("pinned?capacity=1MiB&page=16KiB&pin=off&prefault=true&recycle=0B&threads=3") as backend:
        detail = backend.stats().detail
        assert (detail["page_bytes"], detail["copy_threads"], detail["page_locked"]) == (16384, 3, 0)
        backend.put(message("k", 40_000), bytearray(40_000))
        backend.get(key("k"))
        gc.collect()
        assert backend.stats().detail["recycle_idle_bytes"] == 0


def test_what_it_declares_is_what_it_does(pinned: PinnedBackend) -> None:
    assert pinned.capabilities.remove
    assert pinned.capabilities.tensors
    assert not pinned.capabilities.persistent
    pinned.flush()
    assert pinned.load_state() is None
    assert isinstance(UnsupportedError("x", "y"), Exception)


def test_listing_the_plugin_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, lms_tiers.plugins.pinned, lms_tiers.plugins.gpu\n"
        "heavy = {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
