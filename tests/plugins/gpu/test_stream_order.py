"""The order of copies: on a device that runs them as late as it may, nobody ever sees wrong bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from lms_tiers.errors import CapacityError, StorageUnavailableError
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat
from lms_tiers.plugins.gpu.backend import GpuBackend, GpuOptions
from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions
from tests.depth import some

PAGE = 4096
OPTIONS = GpuOptions(staging=1 << 16, threads=1)


def key(name: object) -> CacheEngineKey:
    return CacheEngineKey.from_string(f"chunk {name}")


def message(name: object, length: int) -> ClientMetaMessage:
    return ClientMetaMessage(
        ClientCommand.PUT, key(name), length, MemoryFormat.KV_2LTD, torch.uint8, torch.Size([length])
    )


def filled(value: int, length: int) -> bytearray:
    return bytearray([value]) * length


@pytest.mark.parametrize("seed", some(range(60), lambda seed: seed < 15))
def test_random_programs_over_three_streams_see_the_newest_bytes_only(make_streams: Any, seed: int) -> None:
    """Puts and gets of every kind, the caller's own kernels before and after them, pages that change hands at once."""
    device = make_streams(seed)
    rng = random.Random(seed)
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, device)
    model: dict[int, bytes] = {}
    callers = [device.stream() for _ in range(2)]
    results: list[tuple[torch.Tensor, bytes]] = []
    value = 0
    for _ in range(60):
        name, length = rng.randrange(3), rng.randrange(1, 12 * PAGE)
        value = value % 255 + 1
        with device.using(rng.choice([*callers, device.default])):
            match rng.randrange(9):
                case 0 | 1:
                    try:
                        backend.put(message(name, length), filled(value, length))
                    except CapacityError:
                        continue
                    model[name] = bytes(filled(value, length))
                case 2 | 3:
                    # A kernel writes the tensor before the put, another overwrites it right after.
                    kind = rng.choice([device.empty, device.locked_tensor])
                    tensor = kind(length)
                    device.kernel(lambda t=tensor, v=value: t.fill_(v))
                    try:
                        backend.put_tensor(message(name, length), tensor)
                    except CapacityError:
                        continue
                    model[name] = bytes(filled(value, length))
                    device.kernel(lambda t=tensor: t.fill_(0))
                case 4:
                    backend.remove(key(name))
                    model.pop(name, None)
                case 5:
                    found = backend.get(key(name))
                    assert (None if found is None else bytes(found.data)) == model.get(name)
                case 6:
                    got = backend.get_tensor(key(name))
                    assert (got is None) == (name not in model)
                    if got is not None:
                        # A kernel of the caller's stream reads the answer; nobody has waited for it.
                        seen = torch.zeros(got.numel(), dtype=torch.uint8)
                        device.kernel(lambda s=seen, g=got: s.copy_(g))
                        results.append((seen, model[name]))
                case 7:
                    # `out` is still being read by an earlier kernel of the caller's.
                    kind = rng.choice([device.empty, device.locked_tensor])
                    out = kind(12 * PAGE).fill_(7)
                    before = torch.zeros(12 * PAGE, dtype=torch.uint8)
                    device.kernel(lambda b=before, o=out: b.copy_(o))
                    results.append((before, bytes(filled(7, 12 * PAGE))))
                    if backend.get_tensor(key(name), out) is not None:
                        size = len(model[name])
                        seen = torch.zeros(size, dtype=torch.uint8)
                        device.kernel(lambda s=seen, o=out, n=size: s.copy_(o[:n]))
                        results.append((seen, model[name]))
                case 8:
                    pieces = [device.locked_tensor(PAGE).numpy(), bytearray(12 * PAGE)]
                    if backend.get_scattered(key(name), pieces) is not None:
                        assert b"".join(bytes(p) for p in pieces)[: len(model[name])] == model[name]
    device.finish()
    for seen, expected in results:
        assert seen.numpy().tobytes() == expected
    for name, expected in model.items():
        found = backend.get(key(name))
        assert found is not None
        assert bytes(found.data) == expected
    backend.close()


@pytest.mark.parametrize("seed", some(range(10), lambda seed: seed < 4))
def test_chunks_move_to_pinned_and_back_without_a_wrong_byte(make_streams: Any, seed: int) -> None:
    device = make_streams(seed)
    gpu = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, device)
    pinned = PinnedBackend(40 * PAGE, PinnedOptions(pin="off"))
    assert pinned._memory is not None
    lock_memory(device, pinned)
    rng = random.Random(seed)
    for round_ in range(20):
        lengths = [rng.randrange(1, 9 * PAGE) for _ in range(3)]
        metas = [message(i, n) for i, n in enumerate(lengths)]
        gpu.put_many(
            [(meta, filled(round_ + i + 1, n)) for i, (meta, n) in enumerate(zip(metas, lengths, strict=True))]
        )
        assert pinned.put_from(metas, gpu) == [True] * 3
        for i, n in enumerate(lengths):
            gpu.remove(key(i))
            gpu.put(message("other", 9 * PAGE), filled(99, 9 * PAGE))
            found = pinned.get(key(i))
            assert found is not None
            assert bytes(found.data) == filled(round_ + i + 1, n)
        gpu.remove(key("other"))
        assert gpu.put_from([*metas, message("absent", 1)], pinned) == [True] * 3 + [False]
        for i, n in enumerate(lengths):
            pinned.remove(key(i))
            pinned.put(message("other", 20 * PAGE), filled(98, 20 * PAGE))
            back = gpu.get(key(i))
            assert back is not None
            assert bytes(back.data) == filled(round_ + i + 1, n)
            pinned.remove(key("other"))
    gpu.close()
    pinned.close()


def lock_memory(device: Any, pinned: PinnedBackend) -> None:
    """Let the device take the arena of `pinned` for page-locked."""
    assert pinned._memory is not None
    arena = pinned._memory.bytes
    device._memory.append((arena.ctypes.data, arena.ctypes.data + arena.nbytes, "locked", arena))


def test_page_locked_sources_and_destinations_are_copied_by_the_device_itself(
    streams: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    pinned = PinnedBackend(40 * PAGE, PinnedOptions(pin="off"))
    lock_memory(streams, pinned)
    gpu.put(message("k", 5 * PAGE), filled(5, 5 * PAGE))

    def host_copy(*args: object) -> None:
        raise AssertionError("the host copied")

    monkeypatch.setattr(gpu._copier, "copy", host_copy)
    monkeypatch.setattr(pinned._copier, "copy", host_copy)
    assert pinned.put_from([message("k", 5 * PAGE)], gpu) == [True]
    gpu.remove(key("k"))
    assert gpu.put_from([message("k", 5 * PAGE)], pinned) == [True]
    found = gpu.get(key("k"))
    assert found is not None
    assert bytes(found.data) == filled(5, 5 * PAGE)
    gpu.close()
    pinned.close()


def test_puts_and_device_tensors_never_wait_for_the_device(streams: Any) -> None:
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    joins = streams.host_joins
    backend.put(message("a", 3 * PAGE), filled(1, 3 * PAGE))
    tensor = streams.empty(3 * PAGE).fill_(2)
    backend.put_tensor(message("b", 3 * PAGE), tensor)
    assert backend.get_tensor(key("a")) is not None
    assert backend.get_tensor(key("b"), streams.empty(3 * PAGE)) is not None
    assert streams.host_joins == joins, "only bytes for the host are worth a wait"
    backend.close()


def test_a_batch_of_gets_waits_once(streams: Any) -> None:
    backend = GpuBackend("gpu:late", 64 * PAGE, OPTIONS, streams)
    backend.put_many([(message(i, PAGE * 9), filled(i, PAGE * 9)) for i in range(6)])
    joins = streams.host_joins
    found = backend.get_many([key(i) for i in (0, 1, "absent", 2, 3, 4, 5, 0)])
    assert streams.host_joins == joins + 1
    assert [None if f is None else bytes(f.data)[:1][0] for f in found] == [0, 1, None, 2, 3, 4, 5, 0]
    backend.close()


def test_a_default_stream_at_work_holds_up_no_put_and_no_get(streams: Any) -> None:
    """A kernel that never ends in the caller's stream: transfers to and from the host go on beside it."""
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    busy = streams.stream()
    busy.work.append(lambda: False)
    with streams.using(busy):
        backend.put(message("k", 3 * PAGE), filled(3, 3 * PAGE))
        found = backend.get(key("k"))
        assert found is not None
        assert bytes(found.data) == filled(3, 3 * PAGE)
    busy.work.clear()
    backend.close()


def test_a_device_that_fails_a_put_keeps_the_old_chunk(streams: Any) -> None:
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    backend.put(message("k", PAGE), filled(1, PAGE))
    puts: list[Callable[[], None]] = [
        lambda: backend.put(message("k", PAGE), filled(2, PAGE)),
        lambda: backend.put_tensor(message("k", PAGE), streams.empty(PAGE)),
        lambda: backend.put_tensor(message("k", PAGE), streams.locked_tensor(PAGE)),
        lambda: backend.put_tensor(message("k", PAGE), torch.zeros(PAGE, dtype=torch.uint8)),
    ]
    for put in puts:
        streams.fail_copies = 1
        with pytest.raises(StorageUnavailableError, match=r"gpu:late: the device is lost$"):
            put()
    found = backend.get(key("k"))
    assert found is not None
    assert bytes(found.data) == filled(1, PAGE)
    streams.finish()
    assert backend.stats().bytes_used == PAGE
    backend.close()


def test_a_device_that_fails_a_read_is_a_miss_and_a_counter(streams: Any) -> None:
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    backend.put(message("k", PAGE), filled(1, PAGE))
    reads: list[Callable[[], object]] = [
        lambda: backend.get(key("k")),
        lambda: backend.get_into(key("k"), bytearray(PAGE)),
        lambda: backend.get_scattered(key("k"), [bytearray(PAGE)]),
        lambda: backend.get_tensor(key("k")),
        lambda: backend.get_tensor(key("k"), streams.locked_tensor(PAGE)),
        lambda: backend.get_tensor(key("k"), torch.empty(PAGE, dtype=torch.uint8)),
    ]
    for i, read in enumerate(reads, 1):
        streams.fail_copies = 1
        assert read() is None
        assert backend.stats().failures == i
    found = backend.get(key("k"))
    assert found is not None
    assert bytes(found.data) == filled(1, PAGE)
    backend.close()


def test_after_a_failed_batch_no_late_copy_reaches_the_callers_buffers(streams: Any) -> None:
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    backend.put_many([(message(i, PAGE), filled(i + 1, PAGE)) for i in range(2)])
    buffers = [streams.locked_tensor(PAGE) for _ in range(2)]
    streams.good_copies = streams.fail_copies = 1
    spoiled: set[int] = set()
    requests = [*((key(i), [buffer.numpy()]) for i, buffer in enumerate(buffers)), (key("absent"), [])]
    assert backend.get_many_into(requests, spoiled=spoiled) == [None] * 3
    assert spoiled == {0, 1}
    for buffer in buffers:
        buffer.fill_(9)
    streams.finish()
    assert all(buffer.numpy().tobytes() == filled(9, PAGE) for buffer in buffers)
    backend.close()


def test_requests_are_taken_while_the_copies_before_them_run(streams: Any) -> None:
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    backend.put_many([(message(i, PAGE), filled(i + 1, PAGE)) for i in range(3)])
    buffers = [streams.locked_tensor(PAGE) for _ in range(4)]
    joins = streams.host_joins
    taken: list[int] = []

    def requests() -> Iterator[tuple[CacheEngineKey, list[Any]]]:
        for name in (0, 1, 9, 2):
            taken.append(streams.host_joins - joins)
            yield key(name), [buffers[len(taken) - 1].numpy()]
        yield key(0), [bytearray(PAGE - 1)]

    found = backend.get_many_into(requests())
    assert [None if meta is None else meta.length for meta in found] == [PAGE, PAGE, None, PAGE, None]
    assert taken == [0, 0, 0, 0]
    assert [int(buffer[0]) for buffer in buffers] == [1, 2, 0, 3]
    backend.close()


def test_a_move_larger_than_a_window_or_than_the_room_goes_on_in_parts(
    streams: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lms_tiers.plugins.gpu.core.WINDOW", 3 * PAGE)
    monkeypatch.setattr("lms_tiers.plugins.pinned.backend._WINDOW", 3 * PAGE)
    gpu = GpuBackend("gpu:late", 10 * PAGE, OPTIONS, streams)
    pinned = PinnedBackend(10 * PAGE, PinnedOptions(pin="off"))
    metas = [message(i, PAGE) for i in range(8)]
    gpu.put_many([(meta, filled(i + 1, PAGE)) for i, meta in enumerate(metas)])
    for _ in range(2):  # the second time every chunk replaces itself in a nearly full arena
        assert pinned.put_from(metas, gpu) == [True] * 8
        assert gpu.put_from(metas, pinned) == [True] * 8
    assert [int(f.data[0]) for f in gpu.get_many([key(i) for i in range(8)]) if f is not None] == list(range(1, 9))
    for target, source in ((pinned, gpu), (gpu, pinned)):
        source.put(message("big", 2 * PAGE), filled(77, 2 * PAGE))
        target.put(message("kept", PAGE), filled(78, PAGE))
        with pytest.raises(CapacityError):
            target.put_from([message(0, PAGE), message("big", 2 * PAGE)], source)
        assert target.contains(key(0))
        assert not target.contains(key("big"))
        target.remove(key("kept"))
        source.remove(key("big"))
        assert target.stats().detail["leaving_bytes"] == source.stats().detail["leaving_bytes"] == 0
    gpu.close()
    pinned.close()


def test_close_waits_until_the_device_is_done_with_the_memory(streams: Any) -> None:
    backend = GpuBackend("gpu:late", 40 * PAGE, OPTIONS, streams)
    caller = streams.stream()
    with streams.using(caller):
        backend.put_tensor(message("k", PAGE), streams.empty(PAGE).fill_(1))
        got = backend.get_tensor(key("k"))
        backend.remove(key("k"))
    backend.close()
    assert not caller.work, "the copies in the caller's stream are over"
    assert got is not None
    assert got.numpy().tobytes() == filled(1, PAGE)
