"""`codec=auto`: chunks lie as they are while there is room, and are encoded, coldest first, as the store fills."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lms_tiers import CreateStorageBackend
from lms_tiers.messages import OpaqueKey
from tests.plugins.lmdb.tier import on_disk
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
