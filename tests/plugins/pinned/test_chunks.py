"""`pinned`: the bytes of a put come back, never change, and fit the capacity."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    ValueTooLargeError,
)
from lms_tiers.messages import LMSMemoryObj
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions
from tests.plugins.arena_chunks import MIB, PAGE, content, key, message, open_text


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


@pytest.mark.parametrize("way", ["contains", "contains_prefix", "list_keys", "stored_bytes", "scan"])
def test_a_question_that_close_overtakes_is_refused_and_not_answered_as_if_nothing_were_held(
    pinned: PinnedBackend, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    pinned.put(message("k", 300), content(1, 300))
    arena = pinned._arena

    def overtaken(look: Callable[..., Any]) -> Callable[..., Any]:
        def after_close(*given: str) -> Any:
            pinned.close()
            return look(*given)

        return after_close

    for name in ("get", "chunks"):
        monkeypatch.setattr(arena, name, overtaken(getattr(arena, name)))
    ask: dict[str, Callable[[], object]] = {
        "contains": lambda: pinned.contains(key("k")),
        "contains_prefix": lambda: pinned.contains_prefix([key("k")]),
        "list_keys": pinned.list_keys,
        "stored_bytes": lambda: pinned.stored_bytes(key("k")),
        "scan": lambda: list(pinned.scan()),
    }
    with pytest.raises(BackendClosedError):
        ask[way]()
