"""`codec=auto`: chunks lie as they are while there is room, and are encoded, coldest first, as the store fills."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lms_tiers import CreateStorageBackend
from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb import cooling, listing, pages, store
from lms_tiers.plugins.lmdb.calls import Calls
from lms_tiers.plugins.lmdb.writing import Writer
from tests.plugins.lmdb.tier import Tier, on_disk
from tests.plugins.lmdb.waiting import until

KIB, MIB = 1 << 10, 1 << 20
SIZE = 128 * KIB


def soft(seed: int) -> bytearray:
    """Bytes that a codec halves."""
    return bytearray(np.random.default_rng(seed).integers(0, 16, SIZE, np.uint8).tobytes())


def charge(backend: Any, name: object) -> int:
    found = backend.stored_bytes(OpaqueKey(str(name)))
    assert found is not None
    return int(found)


@pytest.mark.parametrize("sync", ["none", "batch", "commit"])
def test_the_coldest_are_encoded_as_the_store_fills_and_none_before(
    opening: Callable[..., Any], message: Any, tmp_path: Path, sync: str
) -> None:
    with opening(codec="auto", sync=sync) as backend:
        raw = backend.usable_bytes // backend.reserve_bytes(SIZE)
        for n in range(raw // 2):
            backend.put(message(n, SIZE), soft(n))
        assert backend.shrunk() == {}
        assert min(charge(backend, n) for n in range(raw // 2)) > SIZE
        backend.touch([OpaqueKey("0")])
        for n in range(raw // 2, raw - 1):
            backend.put(message(n, SIZE), soft(n))
        until(lambda: charge(backend, 1) < SIZE)
        until(lambda: backend.held()[1] < backend.usable_bytes * 7 // 8)
        told = backend.shrunk()
        assert told["1"] == charge(backend, 1)
        assert "0" not in told  # it was used
        assert str(raw - 2) not in told
        for n in range(raw - 1):
            assert backend.get(OpaqueKey(str(n))).data == soft(n)
        assert on_disk(tmp_path / "store") <= 32 * MIB
    with opening(codec="auto", sync=sync) as backend:
        listed = [info.key.to_string() for info in backend.scan()]
        assert listed.index("0") > listed.index("1")  # encoding is no use
        for n in range(raw - 1):
            assert backend.get(OpaqueKey(str(n))).data == soft(n)


def test_readers_and_writers_meet_right_bytes_while_chunks_are_encoded(
    opening: Callable[..., Any], message: Any
) -> None:
    with opening(codec="auto", capacity=16 * MIB) as backend:
        names = backend.usable_bytes // backend.reserve_bytes(SIZE) - 1
        state = {n: n for n in range(names)}
        ended = threading.Event()
        wrong: list[int] = []

        def read() -> None:
            while not ended.is_set():
                for n in range(1, names, 2):
                    found = backend.get(OpaqueKey(str(n)))
                    if found is None or found.data != soft(n):
                        wrong.append(n)

        for n in range(names):
            backend.put(message(n, SIZE), soft(n))
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for turn in range(1, 4):
                for n in range(0, names, 2):
                    state[n] = turn * 1000 + n
                    backend.remove(OpaqueKey(str(n)))
                    backend.put(message(n, SIZE), soft(state[n]))
        finally:
            ended.set()
            reader.join()
        assert wrong == []
        assert backend.stats().corrupt == 0
        for n, seed in state.items():
            assert backend.get(OpaqueKey(str(n))).data == soft(seed)


def test_a_tiered_store_holds_more_once_its_disk_has_cooled(tmp_path: Path, message: Any) -> None:
    devices = f"cpu?capacity=4MiB > lmdb:{tmp_path / 'disk'}?capacity=32MiB&sync=none"
    with CreateStorageBackend(devices) as store:
        raw = 32 * MIB // SIZE
        backend: Any = store._h.tiers[1].backend  # type: ignore[attr-defined]
        for n in range(3 * raw):
            store.put(message(n, SIZE), soft(n))
            if n % 8 == 0:
                store.flush()
                until(lambda: not backend._cooling._due.is_set())  # however busy the machine is
        held = 0
        for n in range(3 * raw):
            found = store.get(OpaqueKey(str(n)))
            held += found is not None
            assert found is None or found.data == soft(n)
        assert held > 1.3 * raw
        assert on_disk(tmp_path / "disk") <= 32 * MIB
        h = store._h  # type: ignore[attr-defined]
        with h.lock:  # the policy weighs chunks as the tier charges them
            charges = {text: entry.charges[1] for text, entry in h.index.items() if entry.tiers & 2}
            assert charges == {text: node.size for text, node in h.tiers[1].policy._nodes.items()}
            assert min(charges.values()) < SIZE


def test_a_thread_that_cannot_be_started_costs_no_put_and_is_tried_again(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening(codec="auto", sync="none") as backend:
        raw = backend.usable_bytes // backend.reserve_bytes(SIZE)

        def refused(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refused)
            for n in range(raw - 2):
                backend.put(message(n, SIZE), soft(n))
        backend.put(message(raw - 2, SIZE), soft(raw - 2))
        until(lambda: charge(backend, 0) < SIZE)
        for n in range(raw - 1):
            assert backend.get(OpaqueKey(str(n))).data == soft(n)


def fill(backend: Any, message: Any, first: int = 0, beyond: float = 0.9) -> int:
    """Put chunks until encoding is due; the number of the next one."""
    while backend.held()[1] <= backend.usable_bytes * beyond:
        backend.put(message(first, SIZE), soft(first))
        first += 1
    return first


def test_a_round_goes_on_where_the_last_one_ended(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings: list[int] = []
    chunks_by_use = listing.chunks_by_use

    def counted(*args: Any) -> Any:
        listings.append(1)
        return chunks_by_use(*args)

    monkeypatch.setattr(listing, "chunks_by_use", counted)
    with opening(codec="auto", sync="none", capacity=64 * MIB) as backend:
        number = 0
        for _ in range(4):
            number = fill(backend, message, number)
            until(lambda: not backend._cooling._due.is_set())
            backend._cooling._rest_until = 0
        encoded = [n for n in range(number) if charge(backend, n) < SIZE]
        assert encoded == list(range(len(encoded)))
        assert encoded
    assert len(listings) == 1


def test_what_was_used_since_it_was_listed_stays_as_it_is(opening: Callable[..., Any], message: Any) -> None:
    with opening(codec="auto", sync="none", capacity=64 * MIB) as backend:
        number = fill(backend, message)
        until(lambda: not backend._cooling._due.is_set())
        used = next(n for n in range(number) if charge(backend, n) > SIZE)
        backend.touch([OpaqueKey(str(used))])
        backend._cooling._rest_until = 0
        number = fill(backend, message, number)
        until(lambda: not backend._cooling._due.is_set())
        assert charge(backend, used) > SIZE > charge(backend, used + 1)


def test_no_put_waits_for_the_thread(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    encode = cooling.Cooling._encoded

    def held(*args: Any) -> Any:
        goes_on.wait()
        return encode(*args)

    monkeypatch.setattr(cooling.Cooling, "_encoded", held)
    with opening(codec="auto", sync="none") as backend:
        try:
            number = fill(backend, message)
            for n in range(number, number + 3):
                backend.put(message(n, SIZE), soft(n))
            assert backend._cooling._due.is_set()
        finally:
            goes_on.set()


@pytest.mark.parametrize("left", [0, 1])
def test_a_thread_that_evictions_overtake_passes_chunks_over(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = ChunkMeta(1, MemoryFormat.BINARY, None, (1,))

    def batch(number: int, count: int) -> list[ChunkInfo]:
        return [ChunkInfo(OpaqueKey(f"{number}.{n}"), meta, 1) for n in range(count)]

    def listed() -> Iterator[list[ChunkInfo]]:
        yield []
        yield batch(0, listing.BATCH)
        yield batch(1, left)  # the others have left
        for number in range(2, 8):
            yield batch(number, listing.BATCH)

    cold: Any = cooling.Cooling.__new__(cooling.Cooling)
    counters = SimpleNamespace(chunks=8 * listing.BATCH)
    cold._store = SimpleNamespace(counters=counters, calls=Calls(), check=lambda: None, clock=1)
    cold._cold, cold._coding = None, SimpleNamespace(reads=None)
    monkeypatch.setattr(listing, "chunks_by_use", lambda store, reads: listed())
    seen = [cold._coldest() for _ in range(4 * listing.BATCH)]
    numbers = [int(text.split(".")[0]) for text in seen]
    assert sorted(set(numbers)) == [0, 3, 4, 5]


def cooled(backend: Any) -> None:
    until(lambda: not backend._cooling._due.is_set())


def test_pages_that_a_failed_sync_keeps_are_charged_and_no_put_waits_for_them(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooling, "REST", 1)
    monkeypatch.setattr(pages, "PATIENCE", 0.0)

    def failing(fd: int) -> None:
        if "journal" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, "Input/output error")

    with opening(codec="auto", sync="batch") as backend:
        tier = Tier(backend, seed=1)
        raw = backend.usable_bytes // backend.reserve_bytes(SIZE)
        for n in range(raw // 2):
            tier.put(message(n, SIZE), soft(n))
        monkeypatch.setattr(os, "fdatasync", failing)
        kept = False
        for n in range(raw // 2, 4 * raw):
            tier.put(message(n, SIZE), soft(n))  # never a CapacityError: it keeps within what it was told
            cooled(backend)
            kept = kept or bool(backend._store.pages._withheld)
        assert kept, "what was promised may need them"
        assert backend.shrunk() == {}, "what is not firm is not told"
        for name in tier.charges:
            assert backend.get(OpaqueKey(name)).data == soft(int(name))
        monkeypatch.undo()


def test_what_nobody_asks_about_is_not_remembered_without_end(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooling, "FULL", 0.0)
    monkeypatch.setattr(cooling, "REST", 1)
    monkeypatch.setattr(store, "SHRUNK_MOST", 5)
    with opening(codec="auto", sync="none") as backend:
        for n in range(20):
            backend.put(message(n, SIZE), soft(n))
            cooled(backend)
        until(lambda: charge(backend, 10) < SIZE)
        assert len(backend.shrunk()) == 5


def test_copies_that_wait_to_be_written_take_little_memory(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 4 * SIZE
    monkeypatch.setattr(cooling, "_TOGETHER", most)
    groups: list[int] = []
    replace = Writer.replace

    def noted(self: Writer, copies: list[Any]) -> None:
        groups.append(sum(copy.meta.length for copy in copies))  # each is where it was encoded to
        replace(self, copies)

    monkeypatch.setattr(Writer, "replace", noted)
    with opening(codec="auto", sync="none") as backend:
        for n in range(30):
            backend.put(message(n, SIZE), soft(n))
        backend._cooling._begin = backend._cooling._enough = 0
        backend.put(message(30, SIZE), soft(30))
        cooled(backend)
    assert sum(groups) >= 30 * SIZE
    assert SIZE < max(groups) <= most
