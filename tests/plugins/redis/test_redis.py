"""The backend over one real server: what lies there, what two instances see of each other, and what is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.errors import ConfigError, InvalidBufferError, StorageUnavailableError
from lms_tiers.plugins.redis.chunk import PIECE
from lms_tiers.resp.link import Link
from lms_tiers.wire.head import pack_head
from tests.plugins.redis.engine import RedisServer, needs_server
from tests.plugins.sick import body_of, item, keys

pytestmark = needs_server

MIB = 1 << 20


Open = Callable[..., Any]


@pytest.fixture
def open_redis(engine: RedisServer, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens instances of one place, a prefix of this test's own."""
    opened: list[Any] = []

    def open_one(**options: Any) -> Any:
        given = {"prefix": f"{request.node.name}:", "timeout": "60s", **options}
        text = "&".join(f"{name}={value}" for name, value in given.items())
        opened.append(CreateStorageBackend(f"redis:127.0.0.1:{engine.port}?{text}"))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


def name(request: pytest.FixtureRequest, key: str) -> str:
    return f"{request.node.name}:{key}"


def test_what_one_puts_another_gets_and_nothing_is_remembered_as_absent(open_redis: Open) -> None:
    one, other = open_redis(), open_redis()
    assert body_of(other, "k") is None
    one.put(*item("k", b"a"))
    assert body_of(other, "k") == b"a"
    other.put(*item("k", b"bb"))
    assert body_of(one, "k") == b"bb"
    one.remove(OpaqueKey("k"))
    assert not other.contains(OpaqueKey("k"))
    other.put(*item("k", b"c"))
    other.close()
    assert body_of(one, "k") == b"c"


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 20 * MIB])
def test_a_chunk_is_one_key_that_leaves_whole(
    open_redis: Open, engine: RedisServer, request: pytest.FixtureRequest, size: int
) -> None:
    backend, body = open_redis(), os.urandom(size)
    for smaller in (body, body[: size // 2], body):  # pieces over a string, a string over pieces
        backend.put(*item("k", smaller))
        assert body_of(backend, "k") == smaller
    assert engine.ask("KEYS", name(request, "").replace("[", "\\[") + "*") == [name(request, "k").encode()]
    assert engine.ask("TYPE", name(request, "k")) == (b"string" if size <= PIECE else b"list")
    backend.remove(OpaqueKey("k"))
    assert engine.ask("EXISTS", name(request, "k")) == 0


def test_no_reader_sees_half_of_an_overwrite_in_pieces(open_redis: Open) -> None:
    writer, reader = open_redis(), open_redis()
    bodies = [bytes([value]) * (PIECE + 1000 * value) for value in (1, 2, 3)]
    writer.put(*item("k", bodies[0]))
    done = threading.Event()

    def overwrite() -> None:
        for i in range(12):
            writer.put(*item("k", bodies[i % 3]))
        done.set()

    thread = threading.Thread(target=overwrite)
    thread.start()
    seen = 0
    while not done.is_set() or seen < 3:
        assert body_of(reader, "k") in bodies
        seen += 1
    thread.join()
    assert reader.stats().corrupt == 0


@pytest.mark.parametrize("size", [100, PIECE + 100])
def test_what_is_no_whole_chunk_of_its_key_is_a_miss(
    open_redis: Open, engine: RedisServer, request: pytest.FixtureRequest, size: int
) -> None:
    backend, at = open_redis(), name(request, "k")
    listed = size > PIECE
    body = os.urandom(size)

    def again() -> None:
        backend.put(*item("k", body))
        assert body_of(backend, "k") == body

    def damage(*words: Any) -> None:
        again()
        assert not hasattr(engine.ask(*words), "code")
        buffer = bytearray(size)
        assert body_of(backend, "k") is None
        assert backend.get_into(OpaqueKey("k"), buffer) is None
        assert body_of(backend, "other") is None  # the answer was read to its end

    before = backend.stats().corrupt
    if listed:
        piece = bytearray(body[:PIECE])
        piece[12345] ^= 1
        damage("LSET", at, "1", bytes(piece))
        damage("LSET", at, "0", b"no head")
        damage("RPOP", at)
        damage("RPUSH", at, b"more")
        damage("LTRIM", at, "0", "0")
    else:
        again()
        value = engine.ask("GET", at)
        for i in range(len(value)):
            flipped = bytearray(value)
            flipped[i] ^= 0x10
            engine.ask("SET", at, bytes(flipped))
            assert body_of(backend, "k") is None, i
        damage("SET", at, value[:-1])
        damage("SET", at, value + b"!")
        damage("SET", at, b"")
        damage("SET", at, b"\xff" * 100)
        damage("RENAME", at, at[:-1] + "j")
        assert body_of(backend, "j") is None  # whole, but another key's
    for words in (("HSET", "f", "v"), ("SADD", "m"), ("RPUSH", "x", "y")):
        engine.ask("DEL", at)
        engine.ask(words[0], at, *words[1:])
        assert body_of(backend, "k") is None
    assert backend.stats().corrupt > before
    assert backend.stats().failures == 0
    again()


def test_a_value_that_claims_more_than_it_is_makes_nobody_allocate_it(
    open_redis: Open, engine: RedisServer, request: pytest.FixtureRequest
) -> None:
    backend = open_redis()
    head = pack_head(b"k", ChunkMeta(1 << 50, MemoryFormat.KV_2LTD, "uint8", (1,)), memoryview(b""))
    engine.ask("SET", name(request, "k"), head + b"x")
    assert body_of(backend, "k") is None
    engine.ask("DEL", name(request, "k"))
    engine.ask("RPUSH", name(request, "k"), head, b"x")
    assert body_of(backend, "k") is None
    assert backend.stats().corrupt == 2


def test_a_buffer_that_is_too_small_is_left_alone_and_the_connection_is_good(open_redis: Open) -> None:
    backend = open_redis()
    for size in (1000, PIECE + 1000):
        backend.put(*item("k", b"x" * size))
        small = bytearray(size - 1)
        with pytest.raises(InvalidBufferError):
            backend.get_into(OpaqueKey("k"), small)
        assert not any(small)
    assert body_of(backend, "k") is not None
    assert backend.stats().detail["connects"] == 1


def test_batches_are_one_round_trip(open_redis: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_redis()
    many = [f"k{i}" for i in range(64)]
    sent: list[int] = []
    send = Link.send

    def counted(link: Link, buffers: Any) -> None:
        sent.append(len(buffers))
        send(link, buffers)

    monkeypatch.setattr(Link, "send", counted)
    backend.put_many([item(text, text.encode()) for text in many[:32]])
    assert backend.contains_prefix(keys(*many)) == 32
    assert backend.contains_many(keys("k3", "x", "k5")) == [True, False, True]
    assert [bytes(found.data).decode() for found in backend.get_many(keys(*many[:32]))] == many[:32]
    backend.remove_many(keys(*many))
    assert len(sent) == 5  # nothing was sent after an answer was waited for
    assert backend.list_keys() == []


def test_chunks_leave_when_their_time_is_over(
    open_redis: Open, engine: RedisServer, request: pytest.FixtureRequest
) -> None:
    backend = open_redis(ttl="10h")
    for size in (10, PIECE + 10):
        backend.put(*item("k", b"x" * size))
        assert 35_000 < engine.ask("TTL", name(request, "k")) <= 36_000
    open_redis().put(*item("k", b"x"))
    assert engine.ask("TTL", name(request, "k")) == -1


def test_only_what_lies_below_the_prefix_is_listed(open_redis: Open, engine: RedisServer) -> None:
    one, other = open_redis(prefix="a[*]?^-\\"), open_redis(prefix="a")
    one.put(*item("k", b"x"))
    other.put(*item("[b", b"y"))
    engine.ask("SET", b"a[*]?^-\\\xff", b"no text")
    assert one.list_keys() == keys("k")
    assert [(info.key, info.meta.length) for info in one.scan()] == [(OpaqueKey("k"), 1)]
    assert set(other.list_keys()) == set(keys("[b", "[*]?^-\\k"))
    for backend in (one, other):
        backend.remove_many(backend.list_keys())
    engine.ask("DEL", b"a[*]?^-\\\xff")


@pytest.mark.parametrize("size", [7, PIECE + 1])
def test_a_chunk_of_many_dimensions_and_a_long_key_is_found_by_a_scan(open_redis: Open, size: int) -> None:
    backend = open_redis(prefix=f"dimensions{size}/")
    key = OpaqueKey("k" * 2000)
    meta = ChunkMeta(size, MemoryFormat.KV_2LTD, "uint8", (*[1] * 254, size))
    backend.put(meta.message(key), bytearray(size))
    assert [(info.key, info.meta) for info in backend.scan()] == [(key, meta)]
    backend.remove(key)


def test_where_prefixes_and_keys_make_one_name_none_reads_the_others_chunk(open_redis: Open) -> None:
    ours, theirs = open_redis(prefix="tenant"), open_redis(prefix="tenant2")
    theirs.put(*item("k", b"theirs"))
    assert body_of(ours, "2k") is None
    assert ours.get_into(OpaqueKey("2k"), bytearray(6)) is None
    assert ours.stats().corrupt == 2
    ours.put(*item("2k", b"ours"))
    assert body_of(ours, "2k") == b"ours"
    assert body_of(theirs, "k") is None


def test_a_user_of_the_acl_is_let_in_and_told_what_it_lacks(
    open_redis: Open, engine: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.ask("ACL", "SETUSER", "kv", "on", ">s3cret/word", "~acl:*", "+@read", "+@write", "+cluster|slots")
    monkeypatch.setenv("KV_PASSWORD", "s3cret/word")
    (tmp_path / "password").write_text("s3cret/word\n")
    for given in ({"password_env": "KV_PASSWORD"}, {"password_file": tmp_path / "password"}):
        backend = open_redis(username="kv", prefix="acl:", **given)
        backend.put(*item("k", b"x"))
        assert body_of(backend, "k") == b"x"
    beyond = open_redis(username="kv", prefix="elsewhere:", password_env="KV_PASSWORD")
    with pytest.raises(StorageUnavailableError, match="NOPERM"):
        beyond.put(*item("k", b"x"))
    assert body_of(beyond, "k") is None
    with pytest.raises(StorageUnavailableError, match="WRONGPASS") as caught:
        open_redis(username="kv", password="wr0ng/word")
    assert "wr0ng" not in str(caught.value)
    url = CreateStorageBackend(f"redis:redis://kv:s3cret%252Fword@127.0.0.1:{engine.port}/0?prefix=acl:")
    assert body_of(url, "k") == b"x"
    assert "s3cret" not in repr(vars(url)) + repr(vars(url.nodes))  # type: ignore[attr-defined]
    url.remove(OpaqueKey("k"))
    url.close()


def test_databases_are_places_of_their_own(open_redis: Open) -> None:
    one, other = open_redis(db=0), open_redis(db=3)
    one.put(*item("k", b"x"))
    assert body_of(other, "k") is None
    assert body_of(open_redis(db=0), "k") == b"x"


@pytest.mark.parametrize(("text", "told"), [
    ("redis", "needs a place"),
    ("redis:host:port", "not of the form"),
    ("redis:http://host", "no scheme"),
    ("redis:redis://host/kv", "needs a place"),
    ("redis:redis://host/2?db=3", "db is given in the location and as an option"),
    ("redis:redis://me:pw@host?password=x", "password is given"),
    ("redis:host?ttl=0s", "a millisecond at least"),
    ("redis:host?timeout=0s", "greater than 0"),
    ("redis:host?tls_ca=/no/such/file", "TLS files cannot be used"),
    ("redis:host?pasword=x", "Did you mean 'password'?"),
])  # fmt: skip
def test_a_text_that_is_wrong_says_what_is_wrong_with_it(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CreateStorageBackend(text)
    assert told in str(caught.value)


def test_an_engine_that_is_not_there_is_said_to_be_out_of_reach() -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        CreateStorageBackend("redis:127.0.0.1:1")


PEM = Path(__file__).resolve().parents[2] / "server" / "certificates"


def test_tls_carries_chunks_both_ways_and_turns_away_who_has_no_certificate(tmp_path: Path) -> None:
    with RedisServer(
        tmp_path / "redis", tls_cert_file=str(PEM / "server.pem"), tls_key_file=str(PEM / "server.key"),
        tls_ca_cert_file=str(PEM / "ca.pem"), requirepass="s3cret",
    ) as server:  # fmt: skip
        place = f"redis:rediss://:s3cret@localhost:{server.port}?tls_ca={PEM}/ca.pem&timeout=60s"
        mine = f"{place}&tls_cert={PEM}/client.pem&tls_key={PEM}/client.key"
        with CreateStorageBackend(mine) as backend:
            for size in (0, 100_000, PIECE + 5):
                body = os.urandom(size)
                backend.put(*item("k", body))
                assert body_of(backend, "k") == body
            assert backend.contains_prefix(keys("k", "x")) == 1
            assert backend.stats().failures == 0
        plain = f"redis:redis://:s3cret@localhost:{server.port}?timeout=2s"
        for text in (place, plain):
            with pytest.raises(StorageUnavailableError) as caught:
                CreateStorageBackend(text)
            assert "s3cret" not in str(caught.value)
