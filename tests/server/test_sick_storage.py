"""A storage that fails, is closed or is slow: a miss, the end of a connection, or the wait of one connection."""

from __future__ import annotations

import threading

import pytest

from lms_tiers import LMSLocalBackend
from lms_tiers.errors import CapacityError, StorageUnavailableError
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj
from tests.server.conftest import Serve
from tests.server.peer import EXIST, FOUND, GET, Peer, header


class Failing(LMSLocalBackend):
    """Fails as told."""

    error: Exception | None = None

    def _open(self) -> dict[str, tuple[bytearray, object]]:  # type: ignore[override]
        if self.error is not None:
            raise self.error
        return super()._open()  # type: ignore[return-value]

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        self._open()
        return super().get(key)


@pytest.mark.parametrize(
    "error", [CapacityError("there", 1, 0), StorageUnavailableError("there", "ill"), RuntimeError("bug")]
)
def test_a_failing_storage_is_a_miss_and_the_connection_goes_on(serve: Serve, error: Exception) -> None:
    backend = Failing()
    server = serve(backend)
    with Peer(server) as peer:
        peer.put("k", b"old")
        assert peer.exists("k")
        backend.error = error
        peer.put("k", b"new")
        assert peer.get("k") is None
        assert not peer.exists("k")
        backend.error = None
        assert peer.get("k") == b"old"
    assert server.counters["puts_refused"] == 1
    assert server.counters["storage_failures"] == 2


def test_a_closed_storage_ends_connections_instead_of_answering_for_it(serve: Serve) -> None:
    backend = LMSLocalBackend()
    server = serve(backend)
    backend.close()
    with Peer(server) as peer:
        peer.send(header(GET, "k"))
        assert peer.closed()


class Slow(LMSLocalBackend):
    """A put that waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self.go.wait(60)
        super().put(client_meta, kv_chunk_bytes)


def test_a_put_the_storage_is_slow_with_delays_only_its_own_connection(serve: Serve) -> None:
    backend = Slow()
    server = serve(backend)
    with Peer(server) as slow, Peer(server) as quick:
        slow.put("k", b"v")
        assert not quick.exists("k")
        backend.go.set()
        slow.send(header(EXIST, "k"))
        assert slow.read(36) == FOUND
