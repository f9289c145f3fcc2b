"""The cpu backend where it differs from the seed's: no aliasing, exact memory, closed means closed."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable

import pytest
import torch

from lms_tiers import CacheEngineKey, ClientCommand, ClientMetaMessage, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.errors import BackendClosedError, InvalidBufferError, InvalidChunkError
from tests.tiered.interrupts import ROOT, interrupted


def message(key: CacheEngineKey, length: int) -> ClientMetaMessage:
    return ClientMetaMessage(ClientCommand.PUT, key, length, MemoryFormat.KV_2LTD, torch.uint8, torch.Size([length]))


KEY = OpaqueKey("k")


@pytest.fixture
def backend() -> LMSLocalBackend:
    return LMSLocalBackend()


def test_get_shares_the_bytes_without_a_copy_and_read_only(backend: LMSLocalBackend) -> None:
    data = bytearray(b"abcd")
    backend.put(message(KEY, 4), data)
    obj = backend.get(KEY)
    assert obj is not None
    assert obj.data == b"abcd"
    assert memoryview(obj.data).obj is data
    with pytest.raises(TypeError):
        obj.data[0] = 1


def test_releasing_one_answer_leaves_the_others_readable(backend: LMSLocalBackend) -> None:
    backend.put(message(KEY, 4), bytearray(b"abcd"))
    first, second = backend.get(KEY), backend.get(KEY)
    assert first is not None
    assert second is not None
    first.data.release()  # type: ignore[attr-defined]
    assert bytes(second.data) == b"abcd"
    assert backend.get(KEY).data == b"abcd"  # type: ignore[union-attr]


def test_an_answer_outlives_overwrite_remove_and_close(backend: LMSLocalBackend) -> None:
    backend.put(message(KEY, 4), bytearray(b"abcd"))
    obj = backend.get(KEY)
    backend.put(message(KEY, 2), bytearray(b"xy"))
    backend.remove(KEY)
    backend.close()
    assert obj is not None
    assert bytes(obj.data) == b"abcd"


def test_a_bytearray_grown_piece_by_piece_is_trimmed_to_its_length(backend: LMSLocalBackend) -> None:
    data = bytearray()
    for _ in range(100_001):
        data.append(7)
    assert data.__alloc__() > len(data) + 64
    backend.put(message(KEY, len(data)), data)
    stored = memoryview(backend.get(KEY).data).obj  # type: ignore[union-attr]
    assert isinstance(stored, bytearray)
    assert stored.__alloc__() <= len(stored) + 64
    assert stored == b"\7" * 100_001
    assert backend.stats().bytes_used == 100_001


def test_a_put_that_is_refused_keeps_the_old_value(backend: LMSLocalBackend) -> None:
    backend.put(message(KEY, 2), bytearray(b"ab"))
    with pytest.raises(InvalidChunkError):
        backend.put(message(KEY, 5), bytearray(b"abcd"))
    assert backend.get(KEY).data == b"ab"  # type: ignore[union-attr]


def test_get_into_fills_the_callers_buffer_or_leaves_it_alone(backend: LMSLocalBackend) -> None:
    backend.put(message(KEY, 4), bytearray(b"abcd"))
    buffer = bytearray(b"......")
    meta = backend.get_into(KEY, buffer)
    assert meta is not None
    assert meta.length == 4
    assert buffer == b"abcd.."
    assert backend.get_into(OpaqueKey("absent"), buffer) is None
    for bad in (bytearray(3), bytes(8), memoryview(bytearray(16))[::2], 7):
        with pytest.raises(InvalidBufferError):
            backend.get_into(KEY, bad)
    tensor = torch.zeros(2, dtype=torch.int32)
    assert backend.get_into(KEY, tensor.numpy())
    assert bytes(tensor.numpy()[:1].tobytes()) == b"abcd"


def test_tensors_go_in_and_come_out_by_dtype_and_shape(backend: LMSLocalBackend) -> None:
    tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).t()
    meta = ClientMetaMessage(ClientCommand.PUT, KEY, 12, MemoryFormat.KV_2LTD, torch.bfloat16, torch.Size([3, 2]))
    backend.put_tensor(meta, tensor)
    out = backend.get_tensor(KEY)
    assert out is not None
    assert torch.equal(out, tensor)
    out.zero_()
    assert torch.equal(backend.get_tensor(KEY), tensor)  # type: ignore[arg-type]
    target = torch.zeros(3, 2, dtype=torch.bfloat16)
    assert backend.get_tensor(KEY, out=target) is target
    assert torch.equal(target, tensor)
    with pytest.raises(InvalidBufferError):
        backend.get_tensor(KEY, out=torch.zeros(2, dtype=torch.bfloat16))


def test_view_lends_the_bytes_or_nothing(backend: LMSLocalBackend) -> None:
    backend.put(message(KEY, 4), bytearray(b"abcd"))
    with backend.view(KEY) as view:
        assert view is not None
        assert b"".join(view.buffers) == b"abcd"
    with backend.view(OpaqueKey("absent")) as view:
        assert view is None


def test_every_call_after_close_raises_and_close_is_idempotent(backend: LMSLocalBackend) -> None:
    backend.close()
    backend.close()
    calls: list[Callable[[], object]] = [
        lambda: backend.put(message(KEY, 1), bytearray(1)),
        lambda: backend.get(KEY),
        lambda: backend.contains(KEY),
        lambda: backend.list_keys(),
        lambda: backend.remove(KEY),
        lambda: backend.get_many([KEY]),
        lambda: backend.contains_prefix([KEY]),
        lambda: backend.stats(),
        lambda: list(backend.scan()),
    ]
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()


def test_a_forked_child_has_its_own_copy(backend: LMSLocalBackend) -> None:
    backend.put(message(KEY, 2), bytearray(b"ab"))
    child = os.fork()
    if child == 0:
        backend.put(message(KEY, 2), bytearray(b"xy"))
        os._exit(0 if backend.get(KEY).data == b"xy" else 1)  # type: ignore[union-attr]
    assert os.waitpid(child, 0)[1] == 0
    assert backend.get(KEY).data == b"ab"  # type: ignore[union-attr]


def test_a_put_that_comes_while_the_chunks_are_listed_does_not_break_the_listing() -> None:
    backend = LMSLocalBackend()
    for i in range(300):
        backend.put(message(OpaqueKey(f"k{i}"), 1), bytearray(1))
    came: list[str] = []

    def collecting(phase: str, info: dict[str, int]) -> None:
        came.append(phase)
        backend.put(message(OpaqueKey(f"late{len(came)}"), 1), bytearray(1))

    threshold = gc.get_threshold()
    gc.callbacks.append(collecting)
    gc.set_threshold(20)
    try:
        held = list(backend.scan())
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collecting)
    assert came
    assert len(held) >= 300


def named(name: str) -> OpaqueKey:
    return OpaqueKey(name)


def grown(value: bytes) -> bytearray:
    """Sixteen bytes with room for more, which `put` trims."""
    data = bytearray()
    for _ in range(300):
        data += value
    del data[16:]
    return data


#: Each call meets "a" (bytes 1) and "b" (bytes 2); "c" and "d" are absent.
INTERRUPTED: dict[str, Callable[[LMSLocalBackend], object]] = {
    "put": lambda backend: backend.put(message(named("c"), 16), grown(b"3")),
    "put over": lambda backend: backend.put(message(named("a"), 16), grown(b"3")),
    "put_many": lambda backend: backend.put_many([(message(named(name), 16), grown(b"3")) for name in "cad"]),
    "get": lambda backend: backend.get(named("a")),
    "get_many": lambda backend: backend.get_many([named(name) for name in "abc"]),
    "get_into": lambda backend: backend.get_into(named("a"), bytearray(16)),
    "remove": lambda backend: backend.remove(named("a")),
}
#: What each may leave, first what it met and last what it does whole: the value of each key that is there.
LEFT: dict[str, list[dict[str, bytes]]] = {
    "put": [{"a": b"1", "b": b"2"}, {"a": b"1", "b": b"2", "c": b"3"}],
    "put over": [{"a": b"1", "b": b"2"}, {"a": b"3", "b": b"2"}],
    "put_many": [
        {"a": b"1", "b": b"2"},
        {"a": b"1", "b": b"2", "c": b"3"},
        {"a": b"3", "b": b"2", "c": b"3"},
        {"a": b"3", "b": b"2", "c": b"3", "d": b"3"},
    ],
    "get": [{"a": b"1", "b": b"2"}],
    "get_many": [{"a": b"1", "b": b"2"}],
    "get_into": [{"a": b"1", "b": b"2"}],
    "remove": [{"a": b"1", "b": b"2"}, {"b": b"2"}],
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_call_interrupted_at_any_opcode_has_happened_or_has_not(name: str) -> None:
    places = tuple(str(ROOT / part) for part in ("plugins/cpu.py", "interface.py", "messages.py", "buffers.py"))
    met = set()
    for at in itertools.count(1):
        backend = LMSLocalBackend()
        for key, value in LEFT[name][0].items():
            backend.put(message(named(key), 16), bytearray(value * 16))
        with interrupted(at, places) as interrupt:
            INTERRUPTED[name](backend)
        left = {info.key.to_string(): bytes(backend.get(info.key).data) for info in backend.scan()}  # type: ignore[union-attr]
        states = [{key: value * 16 for key, value in state.items()} for state in LEFT[name]]
        assert left in states, interrupt.where
        met.add(states.index(left))
        stats = backend.stats()
        assert (stats.keys, stats.bytes_used) == (len(left), 16 * len(left)), interrupt.where
        assert {key.to_string() for key in backend.list_keys()} == set(left)
        for key in "abcd":  # and it goes on as if nothing had been
            backend.put(message(named(key), 16), bytearray(b"9" * 16))
            assert backend.get(named(key)).data == b"9" * 16  # type: ignore[union-attr]
            backend.remove(named(key))
        assert backend.stats().bytes_used == 0
        if not interrupt.where:
            break
    assert at > 20, "the interrupts reach the call"
    assert met == set(range(len(states))), "each state is left by some interrupt"
    assert left == states[-1]
