"""A whole server session over bytes in memory: what the fuzzers and the tests feed it comes in pieces of any size."""

# ruff: noqa: D102 - the methods are those of Stream and of the contract

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from lms_tiers.interface import Capabilities, LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    LMSMemoryObj,
    OpaqueKey,
    key_text,
)
from lms_tiers.server.budget import ReceiveBudget
from lms_tiers.server.counters import Counters
from lms_tiers.server.server import answer
from lms_tiers.server.session import Session, Wait
from lms_tiers.server.settings import ServerSettings
from lms_tiers.server.stream import Buffer

MAX_CHUNK = 4096


class MemoryStream:
    """Bytes to read, in pieces, with a pause before each; what is sent is kept."""

    sends_files: ClassVar[bool] = False

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self._rest = b""
        self._paused = False
        self.sent = bytearray()

    def fileno(self) -> int:
        return -1

    def handshake(self) -> None:
        pass

    def recv_into(self, view: memoryview, patient: bool) -> int:
        if not self._rest:
            self._paused = not self._paused
            if self._paused:
                raise BlockingIOError
            self._rest = next(self._pieces, b"")
        part, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(part)] = part
        return len(part)

    def send(self, buffers: Sequence[Buffer], patient: bool) -> int:
        part = bytes(buffers[0])[:1000]
        self.sent += part
        return len(part)

    def send_file(self, head: Buffer, fd: int, offset: int, nbytes: int) -> int:
        raise NotImplementedError

    def acknowledge(self) -> None:
        pass

    def low_water(self, nbytes: int) -> None:
        pass

    def close(self) -> None:
        pass


class DictBackend(LMSBackendInterface):
    """Chunks in a dictionary, without torch."""

    capabilities = Capabilities(remove=True)

    def __init__(self) -> None:
        self.chunks: dict[str, tuple[bytes, ChunkMeta]] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        meta = ChunkMeta.of(client_meta, len(kv_chunk_bytes))
        self.chunks[key_text(client_meta.key)] = bytes(kv_chunk_bytes), meta

    def contains(self, key: CacheEngineKey) -> bool:
        return key_text(key) in self.chunks

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        found = self.chunks.get(key_text(key))
        return None if found is None else found[1].memory_obj(bytearray(found[0]))

    def list_keys(self) -> list[CacheEngineKey]:
        return [OpaqueKey(key) for key in self.chunks]

    def remove(self, key: CacheEngineKey) -> None:
        self.chunks.pop(key_text(key), None)

    def close(self) -> None:
        pass


def run_session(data: bytes, piece: int = 97, backend: LMSBackendInterface | None = None) -> MemoryStream:
    """Feed `data` to a session until it ends, and check that it took nothing with it."""
    stream = MemoryStream([data[i : i + piece] for i in range(0, len(data), piece)])
    budget = ReceiveBudget(2 * MAX_CHUNK)
    counters = Counters()
    session = Session(
        stream, backend or DictBackend(), ServerSettings(max_chunk=MAX_CHUNK, receive_budget=2 * MAX_CHUNK),
        budget, counters, "fuzz", lambda: True, lambda _: None, answer,
    )  # fmt: skip
    for wait in session.steps:
        assert wait is not Wait.BUDGET
    assert budget.used == 0, "a session ended without giving its budget back"
    assert counters["internal_errors"] == 0, "a session ended by an unexpected exception"
    return stream
