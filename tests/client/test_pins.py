"""Leases of chunks of a remote store: of each key for itself, of each holder, and over by their time at the latest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lms_tiers import LMSLocalBackend, OpaqueKey
from lms_tiers.client import Client
from lms_tiers.errors import ConfigError, InvalidKeyError, UnsupportedError
from lms_tiers.policies.lru import Lru
from lms_tiers.server.server import Server
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from lms_tiers.wire import plain
from tests.client.test_asking import item, keys, start


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    tier = TierConfig("ram", LMSLocalBackend(), 1000, Lru(1000, clock))
    with TieredStore([tier], clock=clock) as store, start(store) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


def fill(client: Client, name: str, count: int = 20) -> None:
    for i in range(count):
        client.put(*item(f"{name} {i}", bytes(100)))


def until(server: Server, text: str) -> float | None:
    store: Any = server.backend
    found = store.info(OpaqueKey(text))
    assert found is not None
    end: float | None = found.pinned_until
    return end


def test_each_key_that_is_there_is_kept_for_its_time(server: Server, client: Client, clock: Clock) -> None:
    for name in "ac":
        client.put(*item(name, bytes(100)))
    assert client.pin_each(keys("a", "b", "c"), 60) == [True, False, True]
    fill(client, "more")
    assert client.contains_many(keys("a", "b", "c")) == [True, False, True]
    assert until(server, "a") == clock.now + 60
    assert client.unpin_each(keys("a", "b", "c", "a")) == [True, False, True, False]
    fill(client, "even more")
    assert client.contains_many(keys("a", "c")) == [False, False]
    assert client.pin_each([], 1) == client.unpin_each([]) == []


def test_holders_and_clients_give_back_nothing_of_each_other(server: Server, client: Client, clock: Clock) -> None:
    client.put(*item("a", bytes(100)))
    with Client(server.address) as other:
        assert client.pin_each(keys("a"), 10, holder="é" * 100) == [True]
        assert client.pin_each(keys("a"), 20) == [True]
        assert other.pin_each(keys("a"), 30) == [True]
        assert client.unpin_each(keys("a"), holder=3) == [False]
        assert client.unpin_each(keys("a")) == [True]
        assert client.unpin_each(keys("a")) == [False]
        assert client.unpin_each(keys("a"), holder="é" * 100) == [True]
        assert until(server, "a") == clock.now + 30


def test_the_lease_of_a_client_that_is_gone_ends_by_its_time(server: Server, client: Client, clock: Clock) -> None:
    client.put(*item("a", bytes(100)))
    with Client(server.address) as other:
        other.pin_each(keys("a"), 0.0005)
        assert until(server, "a") == clock.now + 0.001, "in whole milliseconds, none too short"
        other.pin_each(keys("a"), 60)
    assert until(server, "a") == clock.now + 60
    clock.now += 61
    assert until(server, "a") is None
    fill(client, "more")
    assert not client.contains(OpaqueKey("a"))


def test_more_keys_than_one_request_takes_are_pinned_in_a_few(server: Server, client: Client) -> None:
    texts = [f"{i}" + "k" * 60_000 for i in range(40)]
    client.put_many([item(text, b"x") for text in texts[:35]])
    assert client.pin_each(keys(*texts), 60, holder="x") == [True] * 35 + [False] * 5
    assert client.unpin_each(keys(*texts), holder="x") == [True] * 35 + [False] * 5


def test_what_pins_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with LMSLocalBackend() as backend, start(backend) as server:
        with Client(server.address) as client, pytest.raises(UnsupportedError, match="pin_each"):
            client.pin_each(keys("a"), 1)
        with Client(server.address) as client:
            client.put(*item("a", b"x"))  # the connection goes on
        for version in (1, 2):
            monkeypatch.setattr(plain, "EXTENSION", version)
            with Client(server.address) as client, pytest.raises(UnsupportedError, match="pin_each"):
                client.pin_each(keys("a"), 1)
        with Client(server.address, extension=False) as client, pytest.raises(UnsupportedError, match="pin_each"):
            client.unpin_each(keys("a"))


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 3601])
def test_a_lease_lasts_some_time_and_no_more_than_an_hour(client: Client, seconds: float) -> None:
    with pytest.raises(ConfigError, match="hour"):
        client.pin_each(keys("a"), seconds)


def test_what_is_no_key_or_no_holder_is_refused(client: Client) -> None:
    with pytest.raises(InvalidKeyError):
        client.pin_each(keys("a", ""), 1)
    for holder in ("x" * 5000, "\udc80"):
        with pytest.raises(ConfigError, match="holder"):
            client.pin_each(keys("a"), 1, holder=holder)
    client.put(*item("a", b"x"))
    assert client.pin_each(keys("a"), 1) == [True]


def test_a_server_that_cannot_be_asked_pins_nothing(server: Server, client: Client) -> None:
    client.put(*item("a", b"x"))
    server.close()
    assert client.pin_each(keys("a"), 1) == [False]
    assert client.unpin_each(keys("a")) == [False]
    assert client.stats().failures > 0
