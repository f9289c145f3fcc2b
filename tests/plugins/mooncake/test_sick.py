"""A store's bad days: hung, killed, restarted, full. Reads are misses in time, writes typed errors, bytes are right."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend, OpaqueKey
from lms_tiers.errors import BackendClosedError, StorageFullError, StorageUnavailableError
from tests.plugins.mooncake.engine import MooncakeServer, needs_server
from tests.plugins.redis.engine import until
from tests.plugins.sick import (
    body_of,
    bounded,
    hangs_and_goes_on,
    is_killed_and_comes_back_empty,
    item,
    keys,
    puts,
    used_all_the_time,
    writer_is_killed,
)

pytestmark = needs_server

MIB = 1 << 20


def child(backend: Any) -> int:
    pid: int = backend._client._process._child.pid
    return pid


@pytest.mark.deep
def test_a_hung_store_is_misses_and_errors_and_comes_back(doomed: MooncakeServer) -> None:
    with doomed.open(timeout="1s") as backend:
        hangs_and_goes_on(backend, doomed, StorageUnavailableError)


def test_a_node_that_hangs_in_the_middle_of_an_overwrite_leaves_the_old_chunk(tmp_path: Path) -> None:
    """A master that has not yet taken the node for dead: then it forgets what lies there."""
    with MooncakeServer(tmp_path / "patient", client_ttl="600") as doomed, doomed.open(timeout="2s") as backend:
        until(lambda: puts(backend, "k", b"o" * MIB))
        with doomed.one_stalled("node"), bounded():
            for key in ("k", "fresh"):
                with pytest.raises(StorageUnavailableError):
                    backend.put(*item(key, b"n" * MIB))
            assert body_of(backend, "k") is None
            assert until(lambda: backend.contains(OpaqueKey("k"))), "the master knows where it is"
        assert until(lambda: body_of(backend, "k")) == b"o" * MIB
        assert backend.stats().corrupt == 0


def test_a_killed_store_is_misses_and_errors_and_what_it_lost_is_absent(doomed: MooncakeServer) -> None:
    with doomed.open(timeout="5s") as backend:
        is_killed_and_comes_back_empty(backend, doomed)


@pytest.mark.deep
def test_a_store_killed_under_load_gives_no_wrong_byte(doomed: MooncakeServer) -> None:
    bodies = {f"k{i}": bytes([i + 1]) * (200_000 + i) for i in range(6)}
    with doomed.open(timeout="2s") as backend, used_all_the_time(backend, bodies, 2):
        for _ in range(2):
            until(lambda: body_of(backend, "k0") is not None)
            doomed.kill()
            until(lambda: body_of(backend, "k0") is None)
            doomed.heal()
        until(lambda: body_of(backend, "k0") is not None)


@pytest.mark.parametrize("death", [signal.SIGSEGV, signal.SIGKILL])
def test_the_engines_client_may_die_and_takes_nothing_along(store: MooncakeServer, death: signal.Signals) -> None:
    with store.open(prefix="crash/") as backend:
        backend.put(*item("k", b"kept"))
        first = child(backend)
        os.kill(first, death)
        assert until(lambda: body_of(backend, "k")) == b"kept"
        until(lambda: body_of(backend, "k") and child(backend) != first)
        assert backend.stats().corrupt == 0


def test_a_client_that_hangs_is_ended_in_time_and_another_takes_its_place(store: MooncakeServer) -> None:
    with store.open(prefix="hang/", timeout="1s") as backend:
        until(lambda: puts(backend, "k", b"kept"))
        first = child(backend)
        os.kill(first, signal.SIGSTOP)
        with bounded():
            assert body_of(backend, "k") is None
        assert not Path(f"/proc/{first}").exists()
        assert until(lambda: body_of(backend, "k")) == b"kept"
        assert backend.stats().detail["client_starts"] >= 2


def test_a_write_by_a_client_that_hangs_is_not_done_later(store: MooncakeServer) -> None:
    with store.open(prefix="doubt/", timeout="1s") as backend, store.open(prefix="doubt/") as other:
        until(lambda: puts(backend, "k", b"old"))
        os.kill(child(backend), signal.SIGSTOP)
        with pytest.raises(StorageUnavailableError):
            backend.put(*item("k", b"late"))
        other.put(*item("k", b"new"))
        assert until(lambda: body_of(backend, "k")) == b"new"


def test_close_ends_a_call_that_hangs(doomed: MooncakeServer) -> None:
    backend = doomed.open(timeout="1h")
    raised: list[BaseException] = []
    with doomed.stalled():

        def read() -> None:
            try:
                backend.get(OpaqueKey("k"))
            except BackendClosedError as error:
                raised.append(error)

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: not backend._client._process.free)  # four are on their way, the others wait for a lane
        pid = child(backend)
        backend.close()
        for thread in threads:
            thread.join(60)
        assert not Path(f"/proc/{pid}").exists()
    assert len(raised) == 6


@pytest.mark.deep
def test_a_full_store_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Nothing can be evicted while every chunk is leased, as one that was just read is."""
    size = 64 * MIB
    with MooncakeServer(tmp_path / "full", size, default_kv_lease_ttl="1h") as server, server.open() as backend:
        stored: dict[str, bytes] = {}

        def fill() -> None:
            for i in range(200):
                body = os.urandom(MIB)
                backend.put(*item(f"k{i}", body))
                assert body_of(backend, f"k{i}") == body
                stored[f"k{i}"] = body

        with pytest.raises(StorageFullError):
            fill()
        assert len(stored) > 10
        with pytest.raises(StorageFullError):
            backend.put(*item("k0", os.urandom(30 * MIB)))
        for key, body in stored.items():
            assert body_of(backend, key) == body
        backend.remove_many(keys(*stored))
        assert until(lambda: puts(backend, "k", b"fits again"))


@pytest.mark.deep
def test_a_store_that_evicts_takes_every_put_and_what_left_is_a_miss(tmp_path: Path) -> None:
    size = 64 * MIB
    with MooncakeServer(tmp_path / "evicts", size, default_kv_lease_ttl="300") as server, server.open() as backend:
        bodies = {f"k{i}": os.urandom(MIB) for i in range(150)}
        for key, body in bodies.items():
            until(lambda key=key, body=body: puts(backend, key, body))  # type: ignore[misc]
        found = {key: there for key in bodies if (there := body_of(backend, key)) is not None}
        assert 5 < len(found) < 64
        assert all(body == bodies[key] for key, body in found.items())
        assert backend.stats().corrupt == 0


@pytest.mark.deep
def test_a_writer_killed_in_the_middle_leaves_a_whole_chunk(store: MooncakeServer) -> None:
    with store.open(prefix="killed/") as backend:
        for turns in (1, 3):
            writer_is_killed(store.device(prefix="killed/"), 2_000_000, 2, turns)
            found = body_of(backend, "k")
            assert found is not None
            assert len(set(found)) == 1
            assert found[0] >= turns + 1
            backend.put(*item("k", b"mine"))
            assert body_of(backend, "k") == b"mine"


def test_a_master_without_nodes_is_away_and_not_full(doomed: MooncakeServer) -> None:
    with doomed.open(timeout="2s") as backend:
        os.kill(doomed.process("node"), signal.SIGKILL)

        def told() -> str:
            with pytest.raises(StorageUnavailableError) as caught:
                backend.put(*item("k", b"x"))
            assert not isinstance(caught.value, StorageFullError), "a tier would drop the chunk"
            return str(caught.value)

        until(lambda: "has no node yet" in told())


@pytest.mark.deep
def test_a_tiered_store_opens_without_its_master_and_takes_it_up_when_it_is_there(doomed: MooncakeServer) -> None:
    doomed.kill()
    device = f"cpu?capacity=64MiB > {doomed.device(timeout='2s')}"
    with CreateStorageBackend(device) as store:
        store.put(*item("k", b"kept"))
        assert body_of(store, "k") == b"kept"
        doomed.heal()
        store.flush(60)
        with doomed.open() as another:
            assert body_of(another, "k") == b"kept", (another.stats(), store.stats())
