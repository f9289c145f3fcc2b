"""The backend over a real S3 server: what lies there, what two instances see of each other, and its bad days."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from lms_conformance.remote.s3 import BUCKET
from typer.testing import CliRunner

from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey, registry
from lms_tiers.cli import app, doctor
from lms_tiers.errors import (
    ConfigError,
    InvalidBufferError,
    InvalidKeyError,
    OutcomeUnknownError,
    PluginError,
    StorageFullError,
    StorageUnavailableError,
)
from lms_tiers.wire.head import pack_head
from tests.plugins.redis.engine import until
from tests.plugins.s3.doubles import LateStore, answering
from tests.plugins.s3.engine import S3Server, needs_server
from tests.plugins.sick import (
    body_of,
    bounded,
    hangs_and_goes_on,
    is_killed_and_comes_back_empty,
    item,
    keys,
    puts,
    used_all_the_time,
)

pytestmark = needs_server

MIB = 1 << 20
PART = 8 * MIB
SIZES = [0, 1, 100_000, PART - 200, PART, PART + 1, 3 * PART + 5]

Open = Callable[..., Any]


@pytest.fixture
def open_s3(bucket: S3Server, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens instances of one place, a prefix of this test's own."""
    opened: list[Any] = []

    def open_one(**options: Any) -> Any:
        given = {"prefix": request.node.name.replace("/", "_"), "timeout": "2min", **options}
        opened.append(CreateStorageBackend(bucket.device(**given)))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


def names(server: S3Server, prefix: str) -> list[str]:
    listed = server.ask("list_objects_v2", Bucket=BUCKET, Prefix=prefix)
    return [found["Key"] for found in listed.get("Contents", [])]


def test_what_one_puts_another_gets_and_nothing_is_remembered_as_absent(open_s3: Open) -> None:
    one, other = open_s3(), open_s3()
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


@pytest.mark.parametrize(
    ("size", "ranges"), [*((size, "64MiB") for size in SIZES), *((size, "5MiB") for size in SIZES[-3:])]
)
def test_a_chunk_is_one_object_and_comes_back_whole(open_s3: Open, size: int, ranges: str) -> None:
    backend, body = open_s3(ranges=ranges), os.urandom(size)
    backend.put(*item("k", body))
    assert body_of(backend, "k") == body
    into = bytearray(size + 3)
    assert backend.get_into(OpaqueKey("k"), into).length == size
    assert into == body + bytes(3)
    if size:
        small = bytearray(size - 1)
        with pytest.raises(InvalidBufferError):
            backend.get_into(OpaqueKey("k"), small)
        assert not any(small)
    assert backend.list_keys() == keys("k")
    backend.remove(OpaqueKey("k"))
    assert backend.list_keys() == []
    assert backend.stats().failures == backend.stats().corrupt == 0


def test_any_key_is_a_name_that_lists_as_the_key(open_s3: Open, bucket: S3Server) -> None:
    texts = [
        ".",
        "..",
        "a/b",
        "a//b",
        "/",
        "%2E",
        "%",
        "ü@x y",
        "k" * 300,
        "A",
        "a",
        "a.b",
        ".a",
        "~",
        "\x00\n",
        "é" * 150,
    ]
    backend = open_s3(prefix="names")
    backend.put_many([item(text, text.encode()) for text in texts])
    bucket.ask("put_object", Bucket=BUCKET, Key="names/%zz", Body=b"nobody here wrote it")
    assert sorted(key.to_string() for key in backend.list_keys()) == sorted(texts)
    assert [bytes(obj.data).decode() for obj in backend.get_many(keys(*texts))] == texts
    assert {info.key.to_string(): info.meta.length for info in backend.scan()} == {t: len(t.encode()) for t in texts}
    assert backend.contains_prefix(keys(*texts, "x")) == len(texts)
    with pytest.raises(InvalidKeyError):
        backend.put(*item("é" * 151, b""))
    backend.remove_many(keys(*texts))
    assert names(bucket, "names/") == ["names/%zz"]
    bucket.ask("delete_object", Bucket=BUCKET, Key="names/%zz")


def test_a_chunk_with_the_longest_head_comes_back(open_s3: Open) -> None:
    backend = open_s3(prefix="head")
    for length in (100_000, 3 * PART):
        meta = ChunkMeta(length, MemoryFormat.KV_2LTD, "uint8", (1,) * 254 + (length,))
        for key in ("k", "é" * 150):
            backend.put(meta.message(OpaqueKey(key)), bytearray(length))
            found = backend.get(OpaqueKey(key))
            assert found is not None
            assert ChunkMeta.of_obj(key, found) == meta
            assert [info.meta for info in backend.scan()] == [meta]
            backend.remove(OpaqueKey(key))
    assert backend.stats().corrupt == 0


def test_a_key_named_twice_in_a_batch_holds_the_last(open_s3: Open) -> None:
    backend = open_s3()
    backend.put_many([item("k", bytes([i])) for i in range(30)])
    assert body_of(backend, "k") == bytes([29])


@pytest.mark.parametrize("size", [100, pytest.param(2 * PART, marks=pytest.mark.deep)])
def test_what_is_no_whole_chunk_of_its_key_is_a_miss(open_s3: Open, bucket: S3Server, size: int) -> None:
    backend = open_s3(prefix=f"damage-{size}")
    place = {"Bucket": BUCKET, "Key": f"damage-{size}/k"}
    backend.put(*item("k", os.urandom(size)))
    good = bucket.ask("get_object", **place)["Body"].read()
    flips = [0, 5, 20, 40, len(good) // 2, len(good) - 1]
    bad = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in flips]
    backend.put(*item("j", os.urandom(size)))
    others = bucket.ask("get_object", **{**place, "Key": f"damage-{size}/j"})["Body"].read()
    for number, value in enumerate([*bad, good[:-1], good + b"!", b"", b"x", others]):
        bucket.ask("put_object", **place, Body=value)
        assert body_of(backend, "k") is None
        assert backend.get_into(OpaqueKey("k"), bytearray(size)) is None
        assert backend.stats().corrupt == 2 * (number + 1)
    assert backend.stats().failures == 0
    bucket.ask("put_object", **place, Body=good)
    assert body_of(backend, "k") == good[-size:]


def test_an_object_overwritten_between_two_of_its_ranges_is_read_anew(
    open_s3: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, other = open_s3(ranges="8MiB"), open_s3()
    old, new = bytes(2 * PART), bytes([1]) * (2 * PART)
    get_ranges = obstore.get_ranges
    overtaken: list[bytes] = []

    def overtake(*args: Any, **named: Any) -> Any:
        if overtaken:
            other.put(*item("k", overtaken.pop()))
        return get_ranges(*args, **named)

    monkeypatch.setattr(obstore, "get_ranges", overtake)
    backend.put(*item("k", old))
    overtaken[:] = [new]
    assert body_of(backend, "k") == new
    overtaken[:] = [new, old]  # each time it is looked at
    assert body_of(backend, "k") is None
    assert body_of(backend, "k") == new


def test_credentials_come_from_the_environment_and_are_nowhere_told(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    with CreateStorageBackend(f"s3:{BUCKET}/env?endpoint={bucket.endpoint}") as backend:
        backend.put(*item("k", b"x"))
        assert body_of(backend, "k") == b"x"
    monkeypatch.setenv("MINE", "s3cret-word")
    with pytest.raises(StorageUnavailableError) as caught:
        CreateStorageBackend(
            "s3:bucket?endpoint=http://127.0.0.1:1&access_key_id=i&secret_access_key_env=MINE&retries=0"
        )
    assert "s3cret-word" not in str(caught.value)


@pytest.mark.parametrize(("text", "told"), [
    ("s3", "needs a bucket"),
    ("s3:/prefix", "needs a bucket"),
    ("s3:b?timeout=0s", "greater than 0"),
    ("s3:b?tls_ca=/no/such/file", "No such file"),
    ("s3:b?endpont=x", "Did you mean 'endpoint'?"),
])  # fmt: skip
def test_a_text_that_is_wrong_says_what_is_wrong_with_it(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CreateStorageBackend(text)
    assert told in str(caught.value)


def test_a_bucket_that_is_gone_is_misses_and_refusals(doomed: S3Server) -> None:
    with CreateStorageBackend(doomed.device(timeout="60s")) as backend:
        backend.put(*item("k", b"x"))
        doomed.ask("delete_object", Bucket=BUCKET, Key="kv/k")
        doomed.ask("delete_bucket", Bucket=BUCKET)
        assert body_of(backend, "k") is None
        assert not backend.contains(OpaqueKey("k"))
        for call in (lambda: backend.put(*item("k", b"x")), lambda: backend.remove(OpaqueKey("k")), backend.list_keys):
            with pytest.raises(StorageUnavailableError) as caught:
                call()
            assert not isinstance(caught.value, OutcomeUnknownError)
        with pytest.raises(StorageUnavailableError, match="cannot be listed"):
            CreateStorageBackend(doomed.device(timeout="60s"))
        doomed.ask("create_bucket", Bucket=BUCKET)
        backend.put(*item("k", b"y"))
        assert body_of(backend, "k") == b"y"


@pytest.mark.deep
def test_a_hung_server_is_misses_and_writes_in_doubt_and_comes_back(doomed: S3Server) -> None:
    with CreateStorageBackend(doomed.device(timeout="1s")) as backend:
        hangs_and_goes_on(backend, doomed, OutcomeUnknownError)


@pytest.mark.deep
def test_a_killed_server_is_misses_and_errors_until_it_is_back(doomed: S3Server) -> None:
    with CreateStorageBackend(doomed.device(timeout="2s")) as backend:
        is_killed_and_comes_back_empty(backend, doomed)


@pytest.mark.deep
def test_a_server_killed_under_load_gives_no_wrong_byte(doomed: S3Server) -> None:
    bodies = {f"k{i}": bytes([i + 1]) * (200_000 + i) for i in range(6)} | {"big": b"b" * (PART + 5)}
    with CreateStorageBackend(doomed.device(timeout="4s")) as backend:
        with used_all_the_time(backend, bodies, 2):
            for _ in range(2):
                until(lambda: body_of(backend, "k0") is not None)
                doomed.kill()
                until(lambda: body_of(backend, "k0") is None)
                doomed.heal()
            until(lambda: body_of(backend, "k0") is not None)
        assert backend.stats().corrupt == 0


@pytest.mark.parametrize(("status", "kind"), [
    (403, StorageUnavailableError), (404, StorageUnavailableError), (503, StorageUnavailableError),
    (507, StorageFullError), (500, OutcomeUnknownError),
])  # fmt: skip
def test_what_a_status_means_for_a_write_and_a_read(status: int, kind: type[Exception]) -> None:
    with answering(status) as (device, _), CreateStorageBackend(f"{device}&retries=0&timeout=60s") as backend:
        with pytest.raises(StorageUnavailableError) as caught:
            backend.put(*item("k", b"x"))
        assert type(caught.value) is kind
        assert body_of(backend, "k") is None
        assert not backend.contains(OpaqueKey("k"))
        assert backend.stats().failures == (1 if status == 404 else 3)


@pytest.mark.parametrize("size", [100_000, 2 * PART])
def test_an_object_whose_bytes_stop_coming_is_a_miss_in_time(size: int) -> None:
    body = os.urandom(size)
    with LateStore() as store, CreateStorageBackend(store.device.replace("60s", "1s")) as backend:
        store.hold("k", pack_head(b"k", ChunkMeta.of(item("k", body)[0], size), body) + body)
        with store.stalling(), bounded():
            assert body_of(backend, "k") is None
            assert backend.get_into(OpaqueKey("k"), bytearray(size)) is None
        assert until(lambda: body_of(backend, "k")) == body
        assert (backend.stats().failures, backend.stats().corrupt) == (2, 0)


def test_repetitions_end_in_time() -> None:
    with answering(503) as (device, asked), CreateStorageBackend(f"{device}&retries=100&timeout=1s") as backend:
        for call in (lambda: body_of(backend, "k"), lambda: puts(backend, "k", b"x")):
            asked.clear()
            assert not call()
            assert 1 < len(asked) < 30  # half a second of pauses that are no shorter than 50 ms


@pytest.mark.parametrize("write", ["put", "remove"])
def test_a_write_whose_answer_is_lost_is_in_doubt_and_never_done_twice(write: str) -> None:
    with LateStore() as store, CreateStorageBackend(store.device) as backend:
        puts(backend, "k", b"old")
        store.loses = {"put": "PUT", "remove": "POST"}[write]
        with pytest.raises(OutcomeUnknownError):
            backend.put(*item("k", b"late")) if write == "put" else backend.remove(OpaqueKey("k"))
        backend.put(*item("k", b"new"))
        assert body_of(backend, "k") == b"new"
        assert len(store.late) == 1
        store.late.pop()()  # as it may, since nobody was told that it is done
        assert body_of(backend, "k") == (b"late" if write == "put" else None)


def test_what_is_not_installed_is_said_where_it_is_listed_looked_at_and_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = CliRunner().invoke(app, ["plugins", "--json"])
    assert json.loads(lists.stdout)["backends"]["s3"]["install"] == ""
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    command = 'pip install "lms-tiers[s3]"'
    assert json.loads(CliRunner().invoke(app, ["plugins", "--json"]).stdout)["backends"]["s3"]["install"] == command
    assert f"s3 needs more: {command}" in CliRunner().invoke(app, ["plugins"]).stdout
    (finding,) = [found for found in doctor.examine(Path()) if found.subject == "backend s3"]
    assert (finding.state, finding.value) == ("note", "not installed")
    assert command in finding.advice
    with pytest.raises(PluginError) as caught:
        CreateStorageBackend("s3:bucket")
    assert command in str(caught.value)
