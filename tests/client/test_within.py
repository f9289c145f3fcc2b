"""Calls that keep a deadline by themselves, in their caller's thread; and the shared tier that is asked by them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lms_tiers import ChunkMeta, CreateStorageBackend, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client import Client
from lms_tiers.client.address import Address
from lms_tiers.client.connection import Connection
from lms_tiers.client.pool import Pool
from lms_tiers.errors import DeadlineExceededError, OutcomeUnknownError, StorageUnavailableError
from lms_tiers.messages import ClientCommand, ServerReturnCode
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.stats import BreakerState
from lms_tiers.wire import plain
from tests.server.peer import wait_until

META = ChunkMeta(2, MemoryFormat.KV_2LTD, "bfloat16", (1,))
KEYS = [OpaqueKey("a"), OpaqueKey("b")]
FOREVER = 3600.0
READS: dict[str, Callable[[Client], Any]] = {
    "get": lambda c: c.get(KEYS[0]),
    "get_many": lambda c: c.get_many(KEYS),
    "get_into": lambda c: c.get_into(KEYS[0], bytearray(2)),
    "contains": lambda c: c.contains(KEYS[0]),
    "contains_many": lambda c: c.contains_many(KEYS),
}


class Hanging(LMSLocalBackend):
    """Answers nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answering = threading.Event()
        self.answering.set()

    def get(self, key: Any) -> Any:
        self.answering.wait()
        return super().get(key)

    def contains(self, key: Any) -> bool:
        self.answering.wait()
        return super().contains(key)

    def put(self, client_meta: Any, kv_chunk_bytes: Any) -> None:
        self.answering.wait()
        super().put(client_meta, kv_chunk_bytes)


@pytest.fixture
def backend() -> Iterator[Hanging]:
    backend = Hanging()
    yield backend
    backend.answering.set()
    backend.close()


def serve(backend: LMSLocalBackend, port: int = 0) -> Server:
    return Server(backend, make_settings(None, {"port": port}))


def within(client: Client, seconds: float) -> contextlib.AbstractContextManager[None]:
    block = client.within(seconds)
    assert block is not None
    return block


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_ends_with_its_deadline_and_the_next_one_is_right(backend: Hanging, read: Callable[..., Any]) -> None:
    with serve(backend) as server, Client(server.address, timeout=FOREVER) as client:
        client.put(META.message(KEYS[0]), bytearray(b"ab"))
        backend.answering.clear()
        with within(client, 0.05), pytest.raises(DeadlineExceededError, match=r"0\.05 s"):
            read(client)
        backend.answering.set()
        with within(client, FOREVER):
            found = client.get(KEYS[0])
        assert found is not None
        assert found.data == b"ab"


def test_a_write_whose_deadline_is_over_may_have_been_done(backend: Hanging) -> None:
    with serve(backend) as server, Client(server.address, timeout=FOREVER) as client:
        backend.answering.clear()
        with within(client, 0.05), pytest.raises(OutcomeUnknownError):
            client.put(META.message(KEYS[0]), bytearray(b"ab"))
        backend.answering.set()


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_that_fails_is_a_miss_but_an_error_for_who_keeps_a_deadline(
    backend: Hanging, read: Callable[..., Any]
) -> None:
    server = serve(backend)
    with Client(server.address) as client:
        server.close()
        with within(client, FOREVER), pytest.raises(StorageUnavailableError):
            read(client)
        assert read(client) in (None, [None, None], False, [False, False])


def test_a_server_that_was_never_reached_is_asked_in_a_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Client(f"127.0.0.1:{port}", lazy=True) as client:
        assert client.within(1) is None


def test_a_peer_that_trickles_is_no_reason_to_wait_longer() -> None:
    """Every byte is progress: only the clock ends this."""
    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.recv(plain.CLIENT_HEADER.size)
                peer.sendall(plain.encode_reply(ServerReturnCode.SUCCESS))  # to the greeting: not the extension
                peer.recv(plain.CLIENT_HEADER.size)
                peer.sendall(plain.encode_reply(ServerReturnCode.SUCCESS, ChunkMeta(2**20, META.fmt, None, (1,))))
                while not gone.wait(0.002):
                    peer.sendall(b"x")

        server = threading.Thread(target=trickle)
        server.start()
        with Client(f"127.0.0.1:{listener.getsockname()[1]}", timeout=FOREVER) as client:
            with within(client, 0.1), pytest.raises(DeadlineExceededError):
                client.get(KEYS[0])
            gone.set()
        server.join()


def test_waits_are_limited_anew_as_a_deadline_comes_nearer_and_not_for_each_call(monkeypatch: Any) -> None:
    now = [0.0]
    monkeypatch.setattr("lms_tiers.client.connection.time", SimpleNamespace(monotonic=lambda: now[0]))
    with (
        LMSLocalBackend() as kept,
        serve(kept) as server,
        Client(server.address, timeout=8.0) as client,
        client._pool.lend() as connection,
    ):
        limits: list[float] = []
        limit = Connection._wait

        def noted(self: Connection, seconds: float) -> None:
            limits.append(seconds)
            limit(self, seconds)

        monkeypatch.setattr(Connection, "_wait", noted)
        connection.until = 10.0
        for now[0] in (0.0, 1.0, 1.9, 2.1, 6.0, 6.01, 6.02):
            wanted = min(8.0, 10.0 - now[0])
            connection.send([plain.encode_request(ClientCommand.EXIST, "a")])
            assert wanted <= connection._waits <= 1.05 * wanted
            connection.read(plain.SERVER_HEADER.size)
        assert len(limits) == 1  # 8 s were right until the deadline was nearer than that
        now[0] = 10.0
        with pytest.raises(TimeoutError):
            connection.send([b"x"])
        connection.until = None
        connection.send([plain.encode_request(ClientCommand.EXIST, "a")])
        assert limits[-1] >= 8.0
        connection.read(plain.SERVER_HEADER.size)


def test_a_connection_that_was_not_made_in_time_is_tried_again_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address.parse(f"127.0.0.1:{silent.getsockname()[1]}")
        made = Pool(address, 1, 1.0, FOREVER, None, True)
        for _ in range(2):  # the second one is not told to wait: too little time says nothing of the server
            with pytest.raises(TimeoutError), made.lend(time.monotonic() + 0.02):
                pass
        made.close()


# -- by a store --------------------------------------------------------------------------------------------------------


def opened(address: str, **options: Any) -> TieredStore:
    text = "&".join(f"{name}={value}" for name, value in options.items())
    store = CreateStorageBackend(f"store?breaker_cooldown=20ms > cpu?capacity=1MiB > lm:{address}?{text}")
    assert isinstance(store, TieredStore)
    return store


def breaker(store: TieredStore) -> BreakerState:
    stats = store.stats().shared
    assert stats is not None
    return stats.breaker


def askers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lms-tiers-ask")]


def test_a_store_asks_in_its_callers_thread_once_the_server_was_reached(backend: Hanging) -> None:
    with serve(backend) as server, opened(server.address.removeprefix("lm://"), deadline="60s") as store:
        backend.put(META.message(KEYS[0]), bytearray(b"ab"))
        assert [obj is not None for obj in store.get_many(KEYS)] == [True, False]
        assert store.contains_many(KEYS) == [True, False]
        assert not askers()


def test_a_server_that_hangs_costs_a_reader_its_deadline_and_opens_the_breaker(backend: Hanging) -> None:
    with (
        serve(backend) as server,
        opened(server.address.removeprefix("lm://"), deadline="50ms", timeout=FOREVER) as store,
    ):
        backend.answering.clear()
        assert store.get(KEYS[0]) is None
        assert breaker(store) is BreakerState.OPEN
        backend.answering.set()


def test_a_server_that_is_gone_opens_the_breaker_by_reads_alone_and_closes_it_when_it_is_back(backend: Hanging) -> None:
    server = serve(backend)
    port = server.port
    with opened(f"127.0.0.1:{port}", deadline="60s") as store:
        backend.put(META.message(KEYS[0]), bytearray(b"ab"))
        server.close()
        assert store.get(KEYS[0]) is None  # a miss, and a failure that counts
        assert breaker(store) is BreakerState.CLOSED
        wait_until(lambda: store.get(KEYS[0]) is None and breaker(store) is BreakerState.OPEN)
        stats = store.stats().shared
        assert stats is not None
        assert stats.failures >= 5
        with serve(backend, port):
            wait_until(lambda: store.get(KEYS[0]) is not None)
            assert breaker(store) is BreakerState.CLOSED
