"""A client declares what its server takes."""

from __future__ import annotations

from pathlib import Path

from lms_tiers import CreateStorageBackend
from lms_tiers.client import Client
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings
from lms_tiers.wire import plain
from lms_tiers.wire.extension import MAX_KEY_BYTES

MIB = 2**20


def test_an_open_client_declares_the_limits_of_its_servers_store(tmp_path: Path) -> None:
    settings = make_settings(None, {"port": 0, "threads": 2, "max_chunk": 40 * MIB})
    with CreateStorageBackend(f"lmdb:{tmp_path}?capacity=64MiB") as store, Server(store, settings) as server:
        with Client(server.address) as client:
            assert client.capabilities.max_key_bytes == store.capabilities.max_key_bytes
            assert client.capabilities.max_value_bytes == 40 * MIB
            assert client.capabilities.remove
        with Client(server.address, lazy=True) as client:
            assert client.capabilities == Client.capabilities


def test_a_server_without_limits_of_its_own_is_limited_by_the_wire() -> None:
    with CreateStorageBackend("cpu") as store, Server(store, make_settings(None, {"port": 0, "threads": 2})) as server:
        with Client(server.address) as client:
            assert client.capabilities.max_key_bytes == MAX_KEY_BYTES
        with Client(server.address, extension=False) as client:
            assert client.capabilities.max_key_bytes == plain.KEY_BYTES


def test_a_greeting_that_tells_no_longest_key_is_read_as_before() -> None:
    assert plain.decode_reply(plain.encode_greeting_reply(7)).f == 0
