"""Reading into buffers of the caller's, of every backend: what is expected there, or nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lms_tiers import LMSLocalBackend
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import ChunkMeta, ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.gpu.backend import GpuBackend, GpuOptions
from lms_tiers.plugins.lmdb.backend import LmdbBackend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions
from tests.plugins.gpu.conftest import DeferredStreams

KINDS: dict[str, Callable[[Path], LMSBackendInterface]] = {
    "cpu": lambda path: LMSLocalBackend(),
    "pinned": lambda path: PinnedBackend(1 << 20, PinnedOptions(pin="off", page=4096, threads=1)),
    "gpu": lambda path: GpuBackend("gpu:late", 1 << 20, GpuOptions(staging=1 << 16, threads=1), DeferredStreams()),
    "lmdb": lambda path: LmdbBackend(path, 64 << 20, LmdbOptions.model_validate({"codec": "raw", "sync": "none"})),
    "lmdb, encoded": lambda path: LmdbBackend(path, 64 << 20, LmdbOptions.model_validate({"codec": "zstd"})),
}


def key(i: int) -> Any:
    return OpaqueKey(f"chunk {i}")


def meta(i: int) -> ChunkMeta:
    return ChunkMeta.of(message(i), 9000)


def message(i: int) -> ClientMetaMessage:
    return ClientMetaMessage(
        ClientCommand.PUT, key(i), 9000, MemoryFormat.KV_2LTD, torch.bfloat16, torch.Size([2, 2250])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_that_is_not_as_expected_is_no_answer_and_leaves_its_buffers_alone(tmp_path: Path, kind: str) -> None:
    with KINDS[kind](tmp_path / "kv") as backend:
        backend.put_many([(message(i), bytearray([i + 1]) * 9000) for i in range(4)])
        wrong = [replace(meta(1), dtype="float16"), replace(meta(2), shape=(4500,))]
        buffers = [[bytearray(4000), bytearray(5001)] for _ in range(5)]
        requests = [(key(i), pieces) for i, pieces in enumerate(buffers)]
        spoiled: set[int] = set()
        found = backend.get_many_into(iter(requests), expected=[meta(0), *wrong, None, meta(4)], spoiled=spoiled)
        assert found == [meta(0), None, None, meta(3), None]
        assert spoiled <= ({1, 2, 4} if kind == "pinned" else set()), "the default cannot know what an override did"
        assert [b"".join(pieces) for pieces in buffers] == [
            bytes([1]) * 9000 + b"\0", bytes(9001), bytes(9001), bytes([4]) * 9000 + b"\0", bytes(9001),
        ]  # fmt: skip
        assert backend.get_scattered(*requests[1], expected=wrong[0]) is None
        assert not any(buffers[1][0])
        assert backend.get_scattered(*requests[1], expected=meta(1)) == meta(1)
        assert bytes(buffers[1][0]) == bytes([2]) * 4000


class Older(LMSLocalBackend):
    """A backend of before anything could be expected, with a way of its own into buffers."""

    def get_scattered(self, key: Any, buffers: Any) -> ChunkMeta | None:  # type: ignore[override]  # on purpose
        buffers[0][:1] = b"x"
        return None


def test_a_backend_of_before_that_answers_nothing_may_have_spoiled_a_buffer() -> None:
    spoiled: set[int] = set()
    assert Older().get_many_into([(key(0), [bytearray(9)])], spoiled=spoiled) == [None]
    assert spoiled == {0}


def test_a_chunk_damaged_on_disk_spoils_its_buffer_and_no_other(tmp_path: Path) -> None:
    with KINDS["lmdb"](tmp_path) as backend:
        backend.put_many([(message(i), bytearray([i + 1]) * 9000) for i in range(3)])
        (file,) = [path for path in tmp_path.iterdir() if bytes([2]) * 9000 in path.read_bytes()]
        at = file.read_bytes().index(bytes([2]) * 9000)
        with file.open("r+b") as medium:
            medium.seek(at + 4500)
            medium.write(b"\xff")
        spoiled: set[int] = set()
        found = backend.get_many_into([(key(i), [bytearray(9000)]) for i in range(4)], spoiled=spoiled)
        assert found == [meta(0), None, meta(2), None]
        assert spoiled == {1}
