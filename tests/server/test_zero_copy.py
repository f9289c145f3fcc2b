"""Where the bytes of an answer lie when they leave: in the stored chunk itself, not in a copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest

from fuzz.memory import MemoryStream
from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb.parts import TAIL_MOST
from lms_tiers.server.budget import ReceiveBudget
from lms_tiers.server.counters import Counters
from lms_tiers.server.session import Session
from lms_tiers.server.settings import ServerSettings
from lms_tiers.server.stream import Buffer
from tests.server.peer import GET, header

BODY = bytes(range(256)) * 8192


class Watched(MemoryStream):
    """Notes where each buffer lies and takes everything at once."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces)
        self.places: list[tuple[int, int]] = []

    def send(self, buffers: Sequence[Buffer], patient: bool) -> int:
        for buffer in buffers:
            array = numpy.frombuffer(buffer, numpy.uint8)
            self.places.append((array.ctypes.data, array.nbytes))
            self.sent += bytes(buffer)
        return sum(map(len, buffers))


def mapped(name: str) -> list[range]:
    """Where a file is mapped into this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(name):
            begin, _, end = line.split()[0].partition("-")
            found.append(range(int(begin, 16), int(end, 16)))
    return found


@pytest.mark.parametrize(("codec", "borrowed"), [("raw", True), ("zstd", False)])
def test_a_chunk_stored_raw_in_lmdb_leaves_from_the_files_mapping(tmp_path: Path, codec: str, borrowed: bool) -> None:
    with CreateStorageBackend(f"lmdb:{tmp_path}/kv?capacity=64MiB&codec={codec}") as backend:
        meta = ChunkMeta(len(BODY), MemoryFormat.KV_2LTD, "uint8", (1, len(BODY)))
        backend.put(meta.message(OpaqueKey("k")), bytearray(BODY))
        backend.flush()
        stream = Watched([header(GET, "k")])
        budget = ReceiveBudget(2**20)
        session = Session(
            stream, backend, ServerSettings(), budget, Counters(), "watched", lambda: True, lambda _: None
        )  # fmt: skip
        list(session.steps)
        maps = mapped("data.mdb")
        assert maps
        assert stream.sent[36:] == BODY
        body = [place for place in stream.places if place[1] > 36]
        assert sum(size for _, size in body) == len(BODY)
        there = sum(size for at, size in body if any(at in m and at + size - 1 in m for m in maps))
        assert there >= len(BODY) - TAIL_MOST if borrowed else there == 0
        assert budget.peak == 0
