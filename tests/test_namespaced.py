"""A backend seen from one namespace: whatever lies under its keys, only its own chunks are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lms_conformance import check_backend

from lms_tiers import CreateStorageBackend, LMSBackendInterface, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client import Client
from lms_tiers.errors import ConfigError, InvalidChunkError, InvalidKeyError
from lms_tiers.interface import Capabilities
from lms_tiers.messages import NAMESPACE_BYTES, CacheEngineKey, ChunkMeta, ServerReturnCode
from lms_tiers.namespace import PREFIX_BYTES, Namespace
from lms_tiers.namespaced import Namespaced
from lms_tiers.request import RequestContext
from lms_tiers.server.server import Server
from lms_tiers.server.settings import ServerSettings
from lms_tiers.wire.plain import encode_reply
from tests.depth import asked

OURS = Namespace(model="llama", revision="a1", dtype="bfloat16", layout="NHD")
THEIRS = replace(OURS, dtype="float16")
META = ChunkMeta(4, MemoryFormat.KV_2LTD, "bfloat16", (1, 2))
KEY = OpaqueKey("1f")


class Place:
    """Where chunks lie over reopening; `device` may name the address of a server that outlives it."""

    def __init__(self, device: str, stack: ExitStack) -> None:
        self._server = stack.enter_context(LMSLocalBackend())
        address = stack.enter_context(Server(self._server, ServerSettings(port=0))).address
        self._device = device.format(server=address.removeprefix("lm://"))
        self._store = self._open()

    def _open(self) -> LMSBackendInterface:
        return self._server if self._device == "cpu" else CreateStorageBackend(self._device)

    @property
    def store(self) -> LMSBackendInterface:
        return self._store

    def reopen(self) -> LMSBackendInterface:
        self._store.flush(10)
        if self._device != "cpu":
            self._store.close()
        self._store = self._open()
        return self._store

    def close(self) -> None:
        self._store.close()


@pytest.fixture(params=["cpu", "lmdb:{path}?capacity=8MiB", "store > cpu?capacity=1MiB > lmdb:{path}?capacity=8MiB",
                        "lm:{{server}}", "cpu?capacity=1MiB > lm:{{server}}",
                        "pinned?capacity=1MiB > lmdb:{path}?capacity=8MiB&codec=planes"])  # fmt: skip
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        place = Place(request.param.format(path=tmp_path / "kv"), stack)
        stack.callback(place.close)
        yield place


READS: dict[str, Callable[[Namespaced], Any]] = {
    "get": lambda n: n.get(KEY),
    "get_many": lambda n: n.get_many([KEY])[0],
    "get_into": lambda n: n.get_into(KEY, bytearray(4)),
    "get_scattered": lambda n: n.get_scattered(KEY, [bytearray(4)]),
    "get_many_into": lambda n: n.get_many_into([(KEY, [bytearray(4)])])[0],
    "get_tensor": lambda n: n.get_tensor(KEY),
    "scan": lambda n: next(iter(n.scan()), None),
}


def viewed(namespaced: Namespaced) -> bytes | None:
    with namespaced.view(KEY) as view:
        return None if view is None else b"".join(view.buffers)


@pytest.mark.parametrize("planted", [None, THEIRS.digest], ids=["none", "another"])
def test_a_chunk_of_another_namespace_under_our_key_is_a_miss_in_every_backend(
    place: Place, planted: str | None
) -> None:
    """As a writer leaves it that makes our keys but stores other bytes: an older adapter, a digest that collides."""
    place.store.put(META.within(planted).message(OURS.key("1f")), bytearray(b"evil"))
    for again in (False, True):
        store = place.reopen() if again else place.store
        ours = Namespaced(store, OURS, owns=False)
        assert {name: read(ours) for name, read in READS.items()} == dict.fromkeys(READS)
        assert viewed(ours) is None
        assert ours.foreign == len(READS)  # what is listed is not counted, what was viewed is
        assert store.get(OURS.key("1f")) is not None


def test_what_is_stored_in_a_namespace_comes_back_over_reopening(place: Place) -> None:
    ours, theirs = (Namespaced(place.store, n, owns=False) for n in (OURS, THEIRS))
    ours.put(META.message(KEY), bytearray(b"ours"))
    theirs.put_many([(META.message(KEY), bytearray(b"them"))])
    store = place.reopen()
    for namespace, data in ((OURS, b"ours"), (THEIRS, b"them")):
        seen = Namespaced(store, namespace, owns=False)
        buffer = bytearray(4)
        got = seen.get(KEY)
        assert got is not None
        assert bytes(got.data) == data == viewed(seen)
        assert ChunkMeta.of_obj(KEY, got).within(None) == META == seen.get_into(KEY, buffer)
        assert buffer == data
        assert seen.list_keys() == [CacheEngineKey.from_string("1f")]
        assert [(info.key, info.meta) for info in seen.scan()] == [(KEY, META)]
        assert seen.contains_many([KEY, OpaqueKey("2f")]) == [True, False]
        assert seen.contains_prefix([KEY, OpaqueKey("2f")]) == 1
        assert seen.foreign == 0
    Namespaced(store, OURS, owns=False).remove(KEY)
    assert Namespaced(store, OURS, owns=False).get_many([KEY]) == [None]
    assert Namespaced(store, THEIRS, owns=False).contains(KEY)


def test_slots_are_filled_and_lent_in_a_namespace(place: Place) -> None:
    source = LMSLocalBackend()
    source.put(META.message(KEY), bytearray(b"ours"))
    ours, theirs = (Namespaced(place.store, n, owns=False) for n in (OURS, THEIRS))
    absent = OpaqueKey("2f")
    assert ours.put_from([META.message(KEY), META.message(absent)], source) == [True, False]
    assert (ours.contains(KEY), theirs.contains(KEY)) == (True, False)
    buffers = [bytearray(4) for _ in range(2)]
    requests = [(KEY, [buffers[0]]), (absent, [buffers[1]])]
    assert ours.get_many_into(requests, expected=[META, None]) == [META, None]
    assert buffers == [b"ours", bytes(4)]
    assert ours.get_many_into(requests, expected=[replace(META, shape=(2, 2)), META]) == [None, None]
    assert ours.get_scattered(KEY, [buffers[1]], expected=META) == META


def test_a_buffer_with_a_chunk_of_another_namespace_is_spoiled_unless_something_is_expected(place: Place) -> None:
    place.store.put(META.within(THEIRS.digest).message(OURS.key("1f")), bytearray(b"evil"))
    ours = Namespaced(place.store, OURS, owns=False)
    buffer, spoiled = bytearray(4), set[int]()
    assert ours.get_many_into([(KEY, [buffer])], expected=[META], spoiled=spoiled) == [None]
    assert not any(buffer)
    assert ours.get_many_into([(KEY, [buffer])], spoiled=spoiled) == [None]
    assert spoiled == {0}


def test_a_chunk_of_a_namespace_is_a_miss_for_clients_of_lmcache() -> None:
    with pytest.raises(InvalidChunkError, match="namespace"):
        encode_reply(ServerReturnCode.SUCCESS, META.within(OURS.digest))


def test_a_backend_that_loses_the_namespace_answers_nothing() -> None:
    class Loses(LMSLocalBackend):
        def get(self, key: CacheEngineKey) -> Any:
            obj = super().get(key)
            return obj and replace(obj)  # made anew of its fields

    with Namespaced(Loses(), OURS) as ours:
        ours.put(META.message(KEY), bytearray(b"ours"))
        assert ours.get(KEY) is None
        assert ours.foreign == 1


def test_keys_of_a_context_are_the_engines_own(tmp_path: Path) -> None:
    class Asked(LMSLocalBackend):
        context: RequestContext | None = None

        def get_many(self, keys: Any, *, context: RequestContext | None = None) -> Any:
            self.context = context
            return super().get_many(keys)

    with Namespaced(backend := Asked(), OURS) as ours:
        ours.get_many([KEY], context=RequestContext(7, chain=[KEY], partial_keys=[KEY], promote=False))
        assert backend.context == RequestContext(
            7, chain=[OURS.key("1f")], partial_keys=[OURS.key("1f")], promote=False
        )
        ours.get_many([KEY])
        assert backend.context is None


def test_a_batch_that_is_refused_in_the_middle_keeps_what_came_before() -> None:
    with Namespaced(LMSLocalBackend(), OURS) as ours:
        items: list[Any] = [(META.message(OpaqueKey(t)), bytearray(b"1234")) for t in ("a", "b", "c")]
        items[1] = (items[1][0], bytearray(b"123"))
        with pytest.raises(InvalidChunkError):
            ours.put_many(items)
        assert ours.contains_many([OpaqueKey(t) for t in "abc"]) == [True, False, False]
        with pytest.raises(InvalidKeyError):
            ours.get(OpaqueKey(""))


def test_a_prefix_is_taken_off_the_longest_key() -> None:
    class Short(LMSLocalBackend):
        capabilities = Capabilities(remove=True, max_key_bytes=183)

    assert Namespaced(Short(), OURS).capabilities.max_key_bytes == 150
    Short.capabilities = Capabilities(max_key_bytes=PREFIX_BYTES)
    with pytest.raises(ConfigError, match="too short"):
        Namespaced(Short(), OURS)
    assert PREFIX_BYTES == len(OURS.prefix) == 2 * NAMESPACE_BYTES + 1


def test_closing_leaves_alone_what_is_anothers() -> None:
    with LMSLocalBackend() as backend:
        Namespaced(backend, OURS, owns=False).close()
        assert backend.list_keys() == []


FAMILIES = ["ALI", "BAT", "CNT", "ERR", "GET", "KEY-01", "LST-01", "LST-02", "LST-05", "LST-06", "OVR", "RMV"]


@pytest.mark.parametrize("only", asked(["CNT", "GET", "BAT-01", "LST-01", "OVR-01"], FAMILIES))
def test_the_kit_passes_for_one_namespace_of_many(only: list[str]) -> None:
    def opened(path: Path) -> LMSBackendInterface:
        return Namespaced(LMSLocalBackend(), OURS)

    assert check_backend(opened, profile="quick", only=only, seed=1).ok


def test_a_server_keeps_namespaces_for_its_clients() -> None:
    with LMSLocalBackend() as kept, Server(kept, ServerSettings(port=0)) as server:
        with Namespaced(Client(server.address), OURS) as ours:
            ours.put(META.message(KEY), bytearray(b"ours"))
        with kept.view(OURS.key("1f")) as view:
            assert view is not None
            assert view.meta == META.within(OURS.digest)
