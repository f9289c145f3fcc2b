"""Whoever asks for a name whose servers do not answer waits no longer than told, and those that hang are few."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend, OpaqueKey
from lms_tiers.client import names
from lms_tiers.client.address import Address
from lms_tiers.client.client import Client
from lms_tiers.client.http import ask
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.mooncake.options import MooncakeOptions, addresses_of

#: Longer than any machine takes for what should take 100 ms; the name server of these tests answers when they end.
BOUNDED = 30.0


class Servers:
    """Name servers that do not answer, and what they were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()
        self._really = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def end(self) -> None:
        """Answer all, and return when that is known."""
        self.answers.set()
        for thread in threading.enumerate():
            if thread.name == "lms-tiers-names":
                thread.join()

    def _look_up(self, host: str, port: int, *args: Any, **named: Any) -> Any:
        if host != "slow.test" or named.get("flags"):
            return self._really(host, port, *args, **named)
        self.asked.append(host)
        assert self.answers.wait(2 * BOUNDED)
        return self._really("127.0.0.1", port, *args, **named)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    servers = Servers(monkeypatch)
    yield servers
    servers.end()


@contextlib.contextmanager
def refused(*kinds: type[Exception]) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(kinds, match="no name server"):
        yield
    assert time.monotonic() - began < BOUNDED


def test_a_name_that_nobody_resolves_costs_its_time_and_one_thread_and_is_there_when_it_is_known(
    servers: Servers,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("slow.test", listener.getsockname()[1])
        for _ in range(3):
            with refused(TimeoutError):
                address.connect(0.1)
        assert servers.asked == ["slow.test"]
        servers.answers.set()
        address.connect(60.0).close()
        servers.end()
        assert not names._asked


@pytest.mark.parametrize("device", [
    "redis:slow.test:6379?timeout=100ms", "lm:slow.test:7000?timeout=0.1&connect_timeout=0.1",
])  # fmt: skip
def test_a_backend_whose_servers_name_is_not_resolved_is_out_of_reach_in_time(servers: Servers, device: str) -> None:
    with refused(StorageUnavailableError):
        CreateStorageBackend(device)


def test_a_read_is_a_miss_in_time_where_the_servers_name_is_not_resolved(servers: Servers) -> None:
    with contextlib.closing(Client("slow.test:7000", connect_timeout=0.1, lazy=True)) as client:
        began = time.monotonic()
        assert client.get(OpaqueKey("k")) is None
        assert time.monotonic() - began < BOUNDED
        assert client.stats().failures


def test_mooncakes_master_and_its_http_are_out_of_reach_in_time(servers: Servers) -> None:
    with refused(StorageUnavailableError):
        addresses_of("slow.test:50051", MooncakeOptions.model_validate({"timeout": "100ms"}))
    with refused(StorageUnavailableError):
        ask(Address("slow.test", 9003), "/", 0.1)


def test_what_is_no_name_asks_no_name_server_and_one_without_addresses_is_said_to_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail(thread.name))
        Address("127.0.0.1", listener.getsockname()[1]).connect(60.0).close()
        monkeypatch.setattr(threading.Thread, "start", started)
    with pytest.raises(socket.gaierror):
        Address("no.such.name.invalid", 1).connect(60.0)


def test_an_address_that_does_not_take_a_connection_leaves_the_next_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        found = [(*kind, ("127.0.0.1", 1)), (*kind, ("127.0.0.1", port))]
        monkeypatch.setattr("lms_tiers.client.address.addresses", lambda *_: found)
        with contextlib.closing(Address("two.test", port).connect(60.0)) as sock:
            assert sock.getpeername()[1] == port
        monkeypatch.setattr("lms_tiers.client.address.addresses", lambda *_: found[:1])
        with pytest.raises(ConnectionRefusedError):
            Address("two.test", port).connect(60.0)
