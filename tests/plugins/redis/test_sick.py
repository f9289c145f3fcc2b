"""One server's bad days: hung, killed, restarted, full. Reads are misses in time, writes typed errors, bytes are right."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend, OpaqueKey
from lms_tiers.errors import (
    BackendClosedError,
    OutcomeUnknownError,
    StorageFullError,
    StorageUnavailableError,
)
from lms_tiers.plugins.redis.chunk import PIECE
from tests.plugins.redis.engine import RedisServer, needs_server, until
from tests.plugins.sick import (
    body_of,
    hangs_and_goes_on,
    is_killed_and_comes_back_empty,
    item,
    keys,
    puts,
    used_all_the_time,
    writer_is_killed,
)

pytestmark = needs_server


def opened(server: RedisServer, **options: Any) -> Any:
    given = {"prefix": "k:", **options}
    text = "&".join(f"{name}={value}" for name, value in given.items())
    return CreateStorageBackend(f"redis:127.0.0.1:{server.port}?{text}")


def test_a_hung_server_is_misses_and_writes_in_doubt_and_comes_back(doomed: RedisServer) -> None:
    with opened(doomed, timeout="300ms") as backend:
        hangs_and_goes_on(backend, doomed, OutcomeUnknownError)


def test_a_put_in_doubt_that_a_hung_server_has_got_is_stored_after_all(doomed: RedisServer) -> None:
    with opened(doomed, timeout="300ms") as backend:
        backend.put(*item("k", b"old"))
        with doomed.stalled(), pytest.raises(OutcomeUnknownError):
            backend.put(*item("k", b"new"))
        until(lambda: body_of(backend, "k") == b"new")


def test_a_killed_server_is_misses_and_errors_and_what_it_lost_is_absent(doomed: RedisServer) -> None:
    with opened(doomed) as backend:
        raised = is_killed_and_comes_back_empty(backend, doomed)
        assert not any(isinstance(error, OutcomeUnknownError) for error in raised), "nothing was sent"


def test_a_restart_between_two_calls_is_not_noticed(doomed: RedisServer) -> None:
    with opened(doomed) as backend:
        for value in (b"1", b"2", b"3"):
            backend.put(*item("k", value))
            assert body_of(backend, "k") == value
            doomed.kill()
            doomed.heal()
        assert backend.stats().failures == 0


@pytest.mark.deep
def test_a_server_killed_under_load_gives_no_wrong_byte(doomed: RedisServer) -> None:
    bodies = {f"k{i}": bytes([i]) * (200_000 + i) for i in range(8)} | {"big": b"b" * (PIECE + 5)}
    with opened(doomed, timeout="2s") as backend:
        with used_all_the_time(backend, bodies, 3):
            for _ in range(4):
                until(lambda: body_of(backend, "big") is not None)
                doomed.kill()
                until(lambda: body_of(backend, "k0") is None)
                doomed.heal()
            with doomed.stalled():
                until(lambda: body_of(backend, "k0") is None)
            until(lambda: body_of(backend, "big") is not None)
        assert backend.stats().corrupt == 0


def test_close_ends_a_call_that_hangs(doomed: RedisServer) -> None:
    backend = opened(doomed, timeout="1h")
    raised: list[BaseException] = []
    with doomed.stalled():
        asked = backend.nodes.connects

        def read() -> None:
            try:
                backend.get(OpaqueKey("k"))
            except BackendClosedError as error:
                raised.append(error)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: backend.nodes.connects > asked)  # one of them had no idle connection: both are on their way
        backend.close()
        for thread in threads:
            thread.join(60)
    assert len(raised) == 2


def fill(backend: Any, size: int, stored: dict[str, bytes]) -> None:
    for i in range(100):
        body = os.urandom(size)
        backend.put(*item(f"k{i}", body))
        stored[f"k{i}"] = body


@pytest.mark.parametrize("size", [1 << 20, PIECE + 1])
def test_a_full_server_refuses_and_keeps_what_it_has(doomed: RedisServer, size: int) -> None:
    doomed.ask("CONFIG", "SET", "maxmemory", "60mb")
    doomed.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    stored: dict[str, bytes] = {}
    with opened(doomed, timeout="60s") as backend:
        with pytest.raises(StorageFullError, match="maxmemory"):
            fill(backend, size, stored)
        assert len(stored) > 2
        with pytest.raises(StorageFullError):
            backend.put(*item("k0", os.urandom(size)))
        for key, body in stored.items():
            assert body_of(backend, key) == body
        backend.remove_many(keys(*stored))
        until(lambda: puts(backend, "k", b"fits again"))
        assert body_of(backend, "k") == b"fits again"


@pytest.mark.deep
def test_a_server_that_evicts_takes_every_put_and_what_left_is_a_miss(doomed: RedisServer) -> None:
    doomed.ask("CONFIG", "SET", "maxmemory", "40mb")
    doomed.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    bodies = {f"k{i}": os.urandom(1 << 20) for i in range(80)}
    with opened(doomed, timeout="60s") as backend:
        for key, body in bodies.items():
            backend.put(*item(key, body))
        found = {key: there for key in bodies if (there := body_of(backend, key)) is not None}
        assert 10 < len(found) < 40
        assert all(body == bodies[key] for key, body in found.items())
        assert backend.contains_many(keys(*bodies)) == [key in found for key in bodies]
        assert (backend.stats().corrupt, backend.stats().failures) == (0, 0)


@pytest.mark.deep
@pytest.mark.parametrize("size", [2 << 20, 2 * PIECE])
def test_a_writer_killed_in_the_middle_leaves_a_whole_chunk(doomed: RedisServer, size: int) -> None:
    with opened(doomed, timeout="60s") as backend:
        for turns in (1, 3):
            writer_is_killed(f"redis:127.0.0.1:{doomed.port}?prefix=k:&timeout=60s", size, 10_000, turns)
            found = body_of(backend, "k")
            assert found is not None
            turn = len(found) - size
            assert turn >= turns
            assert found == bytes([turn % 250 + 1]) * len(found)
        assert doomed.ask("DBSIZE") == 1


NO_CLUSTER = b"-ERR This instance has cluster support disabled\r\n"


@contextlib.contextmanager
def impostor(answers: bytes) -> Iterator[int]:
    """A server that says this to whatever it is asked, after it has said that it is no Cluster."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer, contextlib.suppress(OSError):
                    while asked := peer.recv(4096):
                        peer.sendall(
                            b"-ERR This instance has cluster support disabled\r\n" if b"SLOTS" in asked else answers
                        )

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("answers", [
    b"?\r\n", b"$x\r\n", b"$-2\r\n", b"*1\r\n$1\r\na\r\n", b":1\r\n", b"+OK\r\n", b"x" * 40_000, b"\r\n", b"$5\r\nabc",
    b"$30\r\n" + b"L" * 30 + b"xx" + b"+OK\r\n" * 9, b"*-1\r\n", b"-MOVED\r\n", b"-MOVED 1 nowhere\r\n", b"-\r\n",
])  # fmt: skip
def test_a_server_that_talks_nonsense_is_a_miss_or_a_typed_error(answers: bytes) -> None:
    with (
        impostor(answers) as port,
        contextlib.closing(CreateStorageBackend(f"redis:127.0.0.1:{port}?timeout=200ms")) as backend,
    ):
        for _ in range(3):
            assert body_of(backend, "k") is None
            with contextlib.suppress(StorageUnavailableError):
                backend.list_keys()
            for size in (1, PIECE + 1):
                with contextlib.suppress(StorageUnavailableError):
                    backend.put(*item("k", b"x" * size))
                    assert answers == b"+OK\r\n"
                    assert size == 1  # to EXEC it is none
        assert backend.stats().failures + backend.stats().corrupt > 0


def test_a_connection_with_an_answer_too_many_is_given_up() -> None:
    with (
        impostor(b"$-1\r\n:1\r\n") as port,
        contextlib.closing(CreateStorageBackend(f"redis:127.0.0.1:{port}?timeout=2s")) as backend,
    ):
        assert body_of(backend, "k") is None
        assert body_of(backend, "k") is None
        assert not backend.contains(OpaqueKey("k")), "that was the answer to what was asked before"
        assert backend.stats().detail["connects"] >= 3
