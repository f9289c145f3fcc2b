"""Bad days that every remote engine has alike, and what its tests ask by: chunks by name, waiting, puts that may fail."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from lms_tiers import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.messages import ClientMetaMessage
from tests.plugins.redis.engine import until

ROOT: Final = Path(__file__).resolve().parents[2]

#: Longer than a call with a time-out of some seconds may take on any machine, shorter than one without would.
BOUNDED: Final = 30.0


class Server(Protocol):
    """What is done to an engine; see `lms_conformance.loopback.LoopbackServer`."""

    def kill(self) -> None: ...
    def heal(self) -> None: ...
    def stalled(self) -> contextlib.AbstractContextManager[None]: ...


def item(key: str, body: bytes) -> tuple[ClientMetaMessage, bytearray]:
    return ChunkMeta(len(body), MemoryFormat.KV_2LTD, "uint8", (len(body),)).message(OpaqueKey(key)), bytearray(body)


def body_of(backend: Any, key: str) -> bytes | None:
    found = backend.get(OpaqueKey(key))
    return None if found is None else bytes(found.data)


def keys(*texts: str) -> list[OpaqueKey]:
    return [OpaqueKey(text) for text in texts]


def puts(backend: Any, key: str, body: bytes) -> bool:
    """Whether a put was taken."""
    try:
        backend.put(*item(key, body))
    except StorageUnavailableError:
        return False
    return True


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUNDED


def hangs_and_goes_on(backend: Any, server: Server, doubt: type[StorageUnavailableError]) -> None:
    """While it hangs reads are misses and writes `doubt`; afterwards all is as before, and never a wrong byte."""
    many = [f"{i}" for i in range(8)]
    until(lambda: puts(backend, "k", b"old"))
    with server.stalled(), bounded():
        assert body_of(backend, "k") is None
        assert backend.contains_many(keys("k", *many)) == [False] * 9
        until(lambda: _raises(backend, doubt))
        with pytest.raises(StorageUnavailableError):
            backend.list_keys()
    assert until(lambda: body_of(backend, "k")) in (b"old", b"new")
    until(lambda: puts(backend, "k", b"newest"))
    assert until(lambda: body_of(backend, "k")) == b"newest"
    assert backend.stats().failures >= 4
    assert backend.stats().corrupt == 0


def _raises(backend: Any, doubt: type[StorageUnavailableError]) -> bool:
    """Put until the engine is asked again: one that rests gets nothing, and nothing is in doubt."""
    try:
        backend.put(*item("k", b"new"))
    except StorageUnavailableError as error:
        return isinstance(error, doubt) and getattr(error, "operation", "put") == "put"
    raise AssertionError("an engine that hangs took a put")


def is_killed_and_comes_back_empty(backend: Any, server: Server) -> list[StorageUnavailableError]:
    """Reads are misses and writes errors, which it answers, until it is back."""
    until(lambda: puts(backend, "k", b"old"))
    server.kill()
    raised: list[StorageUnavailableError] = []
    with bounded():
        assert body_of(backend, "k") is None
        for call in (
            lambda: backend.put(*item("k", b"new")),
            lambda: backend.remove(OpaqueKey("k")),
            backend.list_keys,
        ):
            with pytest.raises(StorageUnavailableError) as caught:
                call()
            raised.append(caught.value)
    server.heal()
    until(lambda: puts(backend, "other", b"x"))
    assert until(lambda: body_of(backend, "other")) == b"x"
    assert body_of(backend, "k") is None
    return raised


@contextlib.contextmanager
def used_all_the_time(backend: Any, bodies: Mapping[str, bytes], threads: int) -> Iterator[None]:
    """During the block threads put and read these chunks again and again; not one byte that they read is wrong."""
    done, wrong = threading.Event(), list[str]()

    def work() -> None:
        while not done.is_set():
            for key, body in bodies.items():
                puts(backend, key, body)
            for key, found in zip(bodies, backend.get_many(keys(*bodies)), strict=True):
                if found is not None and bytes(found.data) != bodies[key]:
                    wrong.append(key)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        done.set()
        for worker in workers:
            worker.join()
    assert not wrong


_WRITER: Final = """
import sys
from lms_tiers import CreateStorageBackend
from tests.plugins.sick import item
backend, size, spread = CreateStorageBackend(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for turn in range(1, 10_000):
    backend.put(*item("k", bytes([turn % 250 + 1]) * (size + turn % spread)))
    print(turn, flush=True)
"""


def writer_is_killed(device: str, size: int, spread: int, turns: int) -> None:
    """Another process overwrites the chunk `k`, each time by one byte more and of another value, and is killed after
    some `turns`; of `spread` lengths they begin anew."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, device, str(size), str(spread)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(turns)]
        writer.kill()
    assert said[-1] == f"{turns}\n"
