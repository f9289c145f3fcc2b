"""Asking for many keys in one round trip, and writes whose outcome nobody knows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lms_tiers import ChunkMeta, LMSBackendInterface, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client import Client
from lms_tiers.errors import BackendClosedError, InvalidKeyError, OutcomeUnknownError, StorageUnavailableError
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings
from lms_tiers.wire import plain


def item(key: str, body: bytes) -> tuple[ClientMetaMessage, bytearray]:
    return ChunkMeta(len(body), MemoryFormat.KV_2LTD, "uint8", (1, len(body))).message(OpaqueKey(key)), bytearray(body)


def keys(*texts: str) -> list[OpaqueKey]:
    return [OpaqueKey(text) for text in texts]


def start(backend: LMSBackendInterface) -> Server:
    return Server(backend, make_settings(None, {"port": 0, "threads": 4}))


class Counting(LMSLocalBackend):
    """Notes the questions it is asked, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def contains(self, key: CacheEngineKey) -> bool:
        self.asked.append(1)
        return super().contains(key)

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        self.asked.append(len(keys))
        return [LMSLocalBackend.contains(self, key) for key in keys]

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        self.asked.append(len(keys))
        held = [LMSLocalBackend.contains(self, key) for key in keys]
        return (*held, False).index(False)


def test_many_keys_are_one_question_to_a_server_of_ours() -> None:
    with Counting() as backend, start(backend) as server, Client(server.address) as client:
        client.put_many([item("a", b"x"), item("b", b"y")])
        assert client.contains_many(keys("a", "absent", "b", "a")) == [True, False, True, True]
        assert client.contains_prefix(keys(*(f"absent {i}" for i in range(64)))) == 0
        assert client.contains_prefix(keys("a", "b", "absent", "a")) == 2
        assert client.contains(OpaqueKey("a"))
        assert client.contains_many([]) == []
        assert backend.asked == [4, 64, 4, 1]


def test_more_keys_than_one_question_takes_are_asked_in_a_few() -> None:
    with Counting() as backend, start(backend) as server, Client(server.address) as client:
        texts = [f"{i}" + "k" * 60_000 for i in range(40)]
        client.put_many([item(text, b"x") for text in texts[:35]])
        assert client.contains_many(keys(*texts)) == [True] * 35 + [False] * 5
        assert sum(backend.asked) == 40
        assert len(backend.asked) == 3
        assert client.contains_prefix(keys(*texts)) == 35


def test_an_older_server_and_lmcaches_are_asked_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with Counting() as backend, start(backend) as server:
        monkeypatch.setattr(plain, "EXTENSION", 1)
        for extension in (True, False):
            with Client(server.address, extension=extension) as client:
                assert client.capabilities.remove is extension
                client.put(*item("a", b"x"))
                backend.asked.clear()
                assert client.contains_many(keys("absent", "a", "a")) == [False, True, True]
                assert client.contains_prefix(keys("a", "absent")) == 1
                assert backend.asked == [1, 1, 1, 1, 1]


def test_what_is_no_key_is_refused_before_it_is_asked_for() -> None:
    with Counting() as backend, start(backend) as server, Client(server.address) as client:
        with pytest.raises(InvalidKeyError):
            client.contains_many(keys("a", ""))
        assert backend.asked == []


def test_a_server_that_cannot_be_asked_holds_nothing() -> None:
    with Counting() as backend:
        server = start(backend)
        with Client(server.address) as client:
            server.close()
            assert client.contains_many(keys("a", "b")) == [False, False]
            assert client.stats().failures > 0


def test_a_client_says_that_others_write_there_too() -> None:
    with LMSLocalBackend() as backend, start(backend) as server, Client(server.address) as client:
        assert client.capabilities.shared
        assert client.capabilities.batch_stops
        with Client(server.address, extension=False) as old:
            assert old.capabilities.shared
            assert not old.capabilities.batch_stops  # LMCache's protocol has no answer to a put


class DiesOfIt(LMSLocalBackend):
    """Carries out what changes a chunk, and takes the connection down before the answer."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        super().put(client_meta, kv_chunk_bytes)
        raise BackendClosedError("dies of it")

    def remove(self, key: CacheEngineKey) -> None:
        super().remove(key)
        raise BackendClosedError("dies of it")


def test_a_write_that_is_not_answered_is_in_doubt_and_may_have_been_done() -> None:
    with DiesOfIt() as backend, start(backend) as server, Client(server.address) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            client.put(*item("k", b"v"))
        assert caught.value.operation == "put"
        assert caught.value.where == server.address
        assert client.contains(OpaqueKey("k"))
        with pytest.raises(OutcomeUnknownError, match="remove may have been carried out"):
            client.remove(OpaqueKey("k"))
        assert not client.contains(OpaqueKey("k"))


def test_a_server_that_is_not_reached_leaves_no_doubt() -> None:
    with LMSLocalBackend() as backend:
        server = start(backend)
        with Client(server.address) as client:
            server.close()
            assert not client.contains(OpaqueKey("k"))  # the connections that lay idle are given up
            with pytest.raises(StorageUnavailableError) as caught:
                client.put(*item("k", b"v"))
            assert not isinstance(caught.value, OutcomeUnknownError)


class InDoubtItself(LMSLocalBackend):
    """A server's own storage that does not know, as one over another server."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        raise OutcomeUnknownError("beyond", "put", "no answer came.")


def test_the_doubt_of_a_servers_own_storage_arrives_as_what_it_is() -> None:
    with InDoubtItself() as backend, start(backend) as server, Client(server.address) as client:
        with pytest.raises(OutcomeUnknownError, match="no answer came"):
            client.put(*item("k", b"v"))
        assert not client.contains(OpaqueKey("k"))
