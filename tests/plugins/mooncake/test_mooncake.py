"""The backend over a real Mooncake Store: what lies there, and what two instances see of each other."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lms_tiers import CreateStorageBackend, OpaqueKey, registry
from lms_tiers.apart.process import Apart
from lms_tiers.cli import app, doctor
from lms_tiers.client.http import ask
from lms_tiers.errors import (
    ConfigError,
    InvalidBufferError,
    InvalidKeyError,
    PluginError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.plugins.mooncake.engine import NUMBER, Engine
from tests.plugins.mooncake.engine import MooncakeServer, needs_server
from tests.plugins.sick import body_of, item, keys

MIB = 1 << 20
LONG = 1e9
Open = Callable[..., Any]

RAW = Path(__file__).with_name("raw.py")
#: See `objects_of`.
OBJECTS: dict[Any, Apart] = {}


@pytest.fixture
def open_mooncake(store: MooncakeServer, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens instances of one place, a prefix of this test's own."""
    opened: list[Any] = []

    def open_one(**options: str) -> Any:
        opened.append(store.open(**{"prefix": request.node.name.partition("[")[0] + "/", **options}))
        return opened[-1]

    yield open_one
    for backend in opened:
        if backend in OBJECTS:
            OBJECTS.pop(backend).close()
        backend.close()


def objects_of(backend: Any) -> Apart:
    """A client of the same store, for objects by their own names."""
    if backend not in OBJECTS:
        program, told, environment, room, _ = backend._client._given
        OBJECTS[backend] = Apart(RAW, {**told, "engine": str(program)}, environment, room, 1)
    return OBJECTS[backend]


def raw(backend: Any, name: str) -> bytes:
    """An object's bytes, past the backend."""
    with objects_of(backend).lane(LONG) as lane:
        (size,) = lane.ask(LONG, "read", name)
        assert size > 0
        return bytes(lane.memory[:size])


def write_raw(backend: Any, name: str, data: bytes) -> None:
    """An object of these bytes, past the backend."""
    with objects_of(backend).lane(LONG) as lane:
        lane.memory[: len(data)] = data
        assert lane.ask(LONG, "write", name, len(data)) == [0]


def names(backend: Any, prefix: str) -> list[str]:
    return sorted(name for name in ask(backend.admin, "/get_all_keys", 60) if name.startswith(prefix))


@needs_server
def test_what_one_puts_another_gets_and_nothing_is_remembered_as_absent(open_mooncake: Open) -> None:
    one, other = open_mooncake(), open_mooncake()
    assert body_of(other, "k") is None
    one.put(*item("k", b"a"))
    assert body_of(other, "k") == b"a"
    other.put(*item("k", b"b"))  # of the same length: the engine would overwrite it in place
    assert body_of(one, "k") == b"b"
    other.put(*item("k", b"ccc"))
    assert body_of(one, "k") == b"ccc"
    one.remove(OpaqueKey("k"))
    assert not other.contains(OpaqueKey("k"))
    other.put(*item("k", b"d"))
    other.close()
    assert body_of(one, "k") == b"d"


@needs_server
@pytest.mark.parametrize("size", [0, 1, 100_000, 3 * MIB + 5, 32 * MIB])
def test_a_chunk_of_any_size_comes_back_and_its_predecessor_is_gone(open_mooncake: Open, size: int) -> None:
    backend, body = open_mooncake(prefix=f"size{size}/"), os.urandom(size)
    backend.put(*item("k", b"old"))
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
    assert len(names(backend, f"size{size}/")) == 1
    backend.remove(OpaqueKey("k"))
    assert names(backend, f"size{size}/") == []
    assert backend.stats().failures == backend.stats().corrupt == 0


@needs_server
def test_a_batch_larger_than_any_buffer_comes_back_in_order(open_mooncake: Open) -> None:
    backend = open_mooncake(connections="1")
    bodies = {f"k{i}": os.urandom(1000 if i % 2 else 3 * MIB) for i in range(50)}
    backend.put_many([item(key, body) for key, body in bodies.items()])
    asked = [*bodies, "absent", "k3"]
    found = backend.get_many(keys(*asked))
    assert [None if one is None else bytes(one.data) for one in found] == [bodies.get(key) for key in asked]
    assert backend.contains_prefix(keys(*asked)) == 50
    backend.remove_many(keys(*bodies))
    assert backend.list_keys() == []


@needs_server
def test_what_is_too_long_is_refused_before_it_is_sent(open_mooncake: Open) -> None:
    backend = open_mooncake()
    with pytest.raises(ValueTooLargeError):
        backend.put(*item("k", bytes(32 * MIB + 1)))
    with pytest.raises(InvalidKeyError):
        backend.put(*item("k" * 4097, b""))
    assert backend.list_keys() == []
    large = open_mooncake(max_chunk="40MiB")
    large.put(*item("k", bytes(33 * MIB)))
    assert body_of(large, "k") == bytes(33 * MIB)
    assert body_of(backend, "k") is None  # more than it has a buffer for
    large.remove(OpaqueKey("k"))


@needs_server
def test_any_key_is_a_name_that_lists_as_the_key(open_mooncake: Open) -> None:
    texts = [".", "..", "a/b", "a//b", "/", "%2E", "%", "ü@x y", "k" * 4096, "A", "a", "a.0", ".1", "\x00\n", "é" * 150]
    backend = open_mooncake(prefix="names:ü/")
    backend.put_many([item(text, text.encode()) for text in texts])
    write_raw(backend, "names%3A%C3%BC/%zz.0", b"nobody here wrote it")
    assert sorted(key.to_string() for key in backend.list_keys()) == sorted(texts)
    assert [bytes(obj.data).decode() for obj in backend.get_many(keys(*texts))] == texts
    backend.remove_many(keys(*texts))
    assert backend.list_keys() == []


@needs_server
@pytest.mark.parametrize("size", [100, 2 * MIB])
def test_what_is_no_whole_chunk_of_its_key_is_a_miss(open_mooncake: Open, size: int) -> None:
    backend = open_mooncake(prefix=f"damage{size}/")
    name = f"damage{size}/k.0"
    backend.put(*item("k", os.urandom(size)))
    good = raw(backend, name)
    flips = [0, 5, 20, 40, len(good) // 2, len(good) - 1]
    bad = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in flips]
    backend.put(*item("j", os.urandom(size)))
    others = raw(backend, f"damage{size}/j.0")
    for number, value in enumerate([*bad, good[:-1], good + b"!", b"x", others]):
        write_raw(backend, name, value)
        assert body_of(backend, "k") is None
        buffer = bytearray(size)
        assert backend.get_into(OpaqueKey("k"), buffer) is None
        assert not any(buffer)
        assert backend.stats().corrupt == 2 * (number + 1)
    assert backend.stats().failures == 0
    write_raw(backend, name, good)
    assert body_of(backend, "k") == good[-size:]
    write_raw(backend, name, b"x")
    backend.put(*item("k", b"over it"))
    assert body_of(backend, "k") == b"over it"


@needs_server
def test_of_two_objects_of_a_key_the_newer_counts_and_the_older_never_comes_back(open_mooncake: Open) -> None:
    """As a writer leaves them that dies between its write and the removal of what it overwrites."""
    backend = open_mooncake(prefix="two/")
    first, second = "two/k.0", "two/k.1"
    backend.put(*item("k", b"old"))
    old = raw(backend, first)
    backend.put(*item("k", b"new"))
    assert names(backend, "two/") == [second]
    write_raw(backend, first, old)
    assert body_of(backend, "k") == b"new"
    assert backend.list_keys() == keys("k")
    backend.put(*item("k", b"newer"))
    assert body_of(backend, "k") == b"newer"
    assert len(names(backend, "two/")) == 1
    (name,) = names(backend, "two/")  # nothing but chance keeps two numbers apart
    write_raw(backend, second if name == first else first, raw(backend, name)[: NUMBER.size] + old[NUMBER.size :])
    assert body_of(backend, "k") in (b"newer", b"old")
    write_raw(backend, second if name == first else first, old)
    backend.remove(OpaqueKey("k"))
    assert names(backend, "two/") == []


class Moving:
    """A store in which a put has taken a chunk from the second name to the first between two looks."""

    looks = 0

    def batch_get_into(self, names: list[str], places: list[int], sizes: list[int]) -> list[int]:
        self.looks += 1
        return [-704, -704] if self.looks == 1 else [5, -704]

    def batch_is_exist(self, names: list[str]) -> list[int]:
        self.looks += 1
        return [0, 0] if self.looks == 1 else [1, 0]


class Empty:
    """A store that has nothing, and takes nothing."""

    def get_into_ranges(self, *_: Any) -> list[list[list[int]]]:
        return [[[-704], [-704]]]

    def batch_put_session_start(self, names: list[str], *_: Any) -> list[int]:
        return [-705] * len(names)

    batch_upsert_from = batch_put_session_start

    def batch_remove(self, names: list[str], force: bool) -> list[int]:
        return [0] * len(names)


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_a_put_whose_time_is_over_before_it_could_write_is_none_that_is_done(seconds: float) -> None:
    (answer,) = Engine(Empty()).put(memoryview(bytearray(4096)), 0, [("k", 100, 20)], seconds)
    assert answer < 0


def test_a_put_between_the_two_looks_of_a_read_or_a_question_is_found() -> None:
    assert Engine(Moving()).read(memoryview(b""), 0, ["k"], 10) == [[(0, 5)]]
    assert Engine(Moving()).exist(memoryview(b""), 0, ["k"]) == [1]


@needs_server
def test_threads_that_overwrite_read_and_ask_never_see_less_than_a_whole_chunk(open_mooncake: Open) -> None:
    backend, other = open_mooncake(), open_mooncake()
    backend.put(*item("k", bytes(50_000)))
    seen: list[str] = []

    def write(who: Any, byte: int) -> None:
        for _ in range(40):
            who.put(*item("k", bytes([byte]) * 50_000))

    def read(who: Any, _: int) -> None:
        for _ in range(60):
            found = body_of(who, "k")
            if found is None or len(set(found)) != 1 or len(found) != 50_000:
                seen.append("a miss" if found is None else "a mixture")
            if not who.contains(OpaqueKey("k")):
                seen.append("absent")

    calls = [(write, backend, 1), (write, backend, 2), (write, other, 3), (read, backend, 0), (read, other, 0)]
    threads = [threading.Thread(target=call, args=(who, byte)) for call, who, byte in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == []
    assert backend.stats().corrupt == other.stats().corrupt == 0


@needs_server
def test_a_forgotten_backend_ends_its_process_and_says_nothing(store: MooncakeServer) -> None:
    backend = store.open(prefix="forgotten/")
    child = backend._client._process._child.pid
    del backend
    assert not Path(f"/proc/{child}").exists()


@needs_server
@pytest.mark.parametrize(("text", "told"), [
    ("mooncake", "needs a master"),
    ("mooncake:host", "needs a master"),
    ("mooncake:127.0.0.1:1?admin=x", "needs a master"),
    ("mooncake:127.0.0.1:1?timeout=0s", "greater than 0"),
    ("mooncake:127.0.0.1:1?max_chunk=1MiB", "greater than or equal to"),
    ("mooncake:127.0.0.1:1?password=x", "password"),
])  # fmt: skip
def test_a_text_that_is_wrong_says_what_is_wrong_with_it(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CreateStorageBackend(text)
    assert told in str(caught.value)


@needs_server
def test_a_master_that_is_not_there_is_told_in_time() -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        CreateStorageBackend("mooncake:127.0.0.1:1?timeout=1s")


@needs_server
def test_doctor_tells_of_nodes_and_that_nobody_guards_them(store: MooncakeServer) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", "--device", f"cpu?capacity=1MiB > {store.device()}"])
    told = [f for f in json.loads(done.stdout) if f["subject"] == "tier mooncake"]
    assert [found["state"] for found in told] == ["ok", "note"], done.output
    assert "1 nodes hold" in told[0]["value"]
    assert "no TLS" in told[1]["value"]


def test_what_is_not_installed_is_said_where_it_is_listed_looked_at_and_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    command = 'pip install "lms-tiers[mooncake]"'
    listed = json.loads(CliRunner().invoke(app, ["plugins", "--json"]).stdout)
    assert listed["backends"]["mooncake"]["install"] == command
    (finding,) = [found for found in doctor.examine(Path()) if found.subject == "backend mooncake"]
    assert (finding.state, finding.value) == ("note", "not installed")
    with pytest.raises(PluginError) as caught:
        CreateStorageBackend("mooncake:127.0.0.1:50051")
    assert command in str(caught.value)
