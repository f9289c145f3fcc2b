"""A read that failed keeps nothing of its caller alive: an engine gives memory back when the read is over."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lms_tiers import ChunkMeta, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client.client import Client
from lms_tiers.client.connection import Connection
from lms_tiers.errors import InvalidBufferError, StorageUnavailableError
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from tests.client.test_client import start

KEY = OpaqueKey("k")
META = ChunkMeta(105, MemoryFormat.BINARY, "uint8", (105,))


class Sick(LMSLocalBackend):
    """Reads raise, with what they were given in their frames."""

    def get_many_into(self, requests: Any, **given: Any) -> Any:
        views = [memoryview(buffer) for _, buffers in requests for buffer in buffers]
        raise StorageUnavailableError("sick", f"{len(views)} reads failed")

    def get_many(self, keys: Any) -> Any:
        raise StorageUnavailableError("sick", "a read failed")

    def get(self, key: Any) -> Any:
        raise StorageUnavailableError("sick", "a read failed")

    def get_into(self, key: Any, buffer: Any) -> Any:
        with memoryview(buffer) as view:
            raise StorageUnavailableError("sick", f"a read of {len(view)} bytes failed")

    def get_scattered(self, key: Any, buffers: Any, **given: Any) -> Any:
        return self.get_into(key, buffers[0])


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What lies in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def store() -> Iterator[TieredStore]:
    tier = TierConfig("sick", Sick(), None, Lru(sys.maxsize, lambda: 0.0))
    with TieredStore([tier], breaker_threshold=1000) as made:
        made.put(META.message(KEY), bytearray(105))
        yield made


@pytest.mark.usefixtures("no_collector")
def test_a_read_into_a_slot_that_failed_lets_go_of_it(store: TieredStore) -> None:
    slot = bytearray(200)
    assert store.get_many_into([(KEY, [slot])]) == [None]
    slot.clear()  # a BufferError where anybody has a view


@pytest.mark.usefixtures("no_collector")
def test_so_do_a_read_into_one_buffer_and_into_several(store: TieredStore) -> None:
    slot, other = bytearray(200), bytearray(200)
    assert store.get_into(KEY, slot) is None
    slot.clear()
    store.put(META.message(KEY), bytearray(105))
    assert store.get_scattered(KEY, [other]) is None
    other.clear()


@pytest.mark.usefixtures("no_collector")
def test_a_slot_beside_one_that_takes_nothing_is_let_go_of(store: TieredStore) -> None:
    slot = bytearray(200)
    with pytest.raises(InvalidBufferError):
        store.get_scattered(KEY, [slot, b"read-only"])
    slot.clear()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("deadline", [False, True])
def test_a_client_whose_server_goes_lets_go_of_what_it_read_into(
    monkeypatch: pytest.MonkeyPatch, deadline: bool
) -> None:
    read_into = Connection.read_into

    def lost(self: Connection, view: memoryview) -> None:
        if len(view) == 105:
            raise ConnectionResetError("the server closed the connection")
        read_into(self, view)

    with LMSLocalBackend() as backend, start(backend) as server, Client(server.address) as client:
        client.put(META.message(KEY), bytearray(105))
        monkeypatch.setattr(Connection, "read_into", lost)
        slot = bytearray(200)
        if deadline:
            within = client.within(30)
            assert within is not None
            with within, pytest.raises(StorageUnavailableError, match="lost"):
                client.get_into(KEY, slot)
        else:
            assert client.get_many_into([(KEY, [slot])]) == [None]
        slot.clear()
