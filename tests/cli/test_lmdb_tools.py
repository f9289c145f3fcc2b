"""`check`, `inspect` and `compact` tell the truth about a store, mend it, and leave the rest as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import StorageLockedError, StorageUnavailableError
from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions

MIB = 1 << 20


def opened(path: Path, capacity: int = 32 * MIB, codec: str = "raw") -> LmdbBackend:
    return open_backend(str(path), capacity, LmdbOptions.model_validate({"sync": "none", "codec": codec}))


def put(backend: LmdbBackend, name: object, data: bytes, dtype: torch.dtype | None = None) -> None:
    shape = torch.Size([len(data) // (dtype.itemsize if dtype else 1)])
    key = OpaqueKey(str(name))
    message = ClientMetaMessage(ClientCommand.PUT, key, len(data), MemoryFormat.KV_2LTD, dtype, shape)
    backend.put(message, bytearray(data))


def run(*arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def noise(seed: int, length: int) -> bytes:
    import random

    return random.Random(seed).randbytes(length)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with opened(path) as backend:
        for n in range(12):
            put(backend, n, noise(n, MIB))
    return path


def test_check_finds_a_whole_store_whole(store: Path) -> None:
    status, report = run("check", str(store))
    assert status == 0
    assert report["ok"] is True
    assert (report["chunks"], report["damaged"], report["orphans"]) == (12, 0, 0)


def test_check_names_a_damaged_chunk_and_repair_removes_only_that(store: Path) -> None:
    data = store / "data.mdb"
    broken = bytearray(data.read_bytes())
    broken[broken.find(noise(3, 64)) + 1000] ^= 4
    data.write_bytes(broken)
    status, report = run("check", str(store))
    assert status == 1
    assert report["damaged_keys"] == ["3"]
    assert data.read_bytes() == broken
    status, report = run("check", str(store), "--repair")
    assert status == 0
    assert report["repaired"] is True
    assert run("check", str(store))[1]["chunks"] == 11
    with opened(store) as backend:
        assert sorted(int(k.to_string()) for k in backend.list_keys()) == [n for n in range(12) if n != 3]


def test_check_of_a_sick_file_is_exit_status_one_and_repair_moves_it_aside(store: Path) -> None:
    data = store / "data.mdb"
    broken = bytearray(data.read_bytes())
    broken[2 * 4096 : 40 * 4096] = bytes(38 * 4096)
    data.write_bytes(broken)
    status, report = run("check", str(store))
    assert (status, report["verdict"]) == (1, "sick")
    assert data.exists()
    status, report = run("check", str(store), "--repair")
    assert (status, report["repaired"]) == (0, True)
    assert not data.exists()
    assert [p.read_bytes() for p in store.iterdir() if ".sick-" in p.name] == [broken]


def test_inspect_counts_by_dtype_and_codec(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with opened(path, codec="zstd:1") as backend:
        put(backend, "text", b"the same words again and again. " * 20000, torch.uint8)
        put(backend, "noise", noise(1, MIB), torch.bfloat16)
    status, contents = run("inspect", str(path))
    assert status == 0
    groups = {(g["dtype"], g["codec"]): g for g in contents["groups"]}
    assert groups["uint8", "zstd"]["encoded"] < 20000
    assert groups["uint8", "zstd"]["length"] == 640_000
    assert groups["bfloat16", "raw"]["encoded"] == MIB
    assert contents["chunks"] == 2
    assert contents["oldest"] >= contents["youngest"] >= 0


def test_compact_gives_free_pages_back_and_keeps_chunks_order_and_state(store: Path) -> None:
    with opened(store) as backend:
        backend.remove_many([OpaqueKey(str(n)) for n in range(0, 12, 2)])
        backend.touch([OpaqueKey("1")])
        backend.save_state(b"a policy's memory")
        order = [info.key.to_string() for info in backend.scan()]
    status, result = run("compact", str(store))
    assert status == 0
    assert result["after"] < result["before"] * 0.7
    with opened(store) as backend:
        assert [info.key.to_string() for info in backend.scan()] == order
        assert backend.load_state() == b"a policy's memory"
        for n in range(1, 12, 2):
            obj = backend.get(OpaqueKey(str(n)))
            assert obj is not None
            assert bytes(obj.data) == noise(n, MIB)
        put(backend, "after", b"x" * 1000)
    assert run("check", str(store))[0] == 0
    assert sorted(p.name for p in store.iterdir()) == ["data.mdb", "lock.mdb", "owner", "state.json"]


def test_compact_to_a_smaller_capacity_leaves_out_the_least_recently_used(store: Path) -> None:
    with opened(store) as backend:
        backend.touch([OpaqueKey("0")])
    status, result = run("compact", str(store), "--capacity", "6MiB")
    assert status == 0
    assert result["kept" if "kept" in result else "chunks"] + result["dropped"] == 12
    with opened(store, capacity=6 * MIB) as backend:
        held = {int(k.to_string()) for k in backend.list_keys()}
        assert 0 in held
        assert held - {0} == set(range(13 - len(held), 12))


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_a_store_that_is_open_is_left_alone(store: Path, command: str) -> None:
    with opened(store), pytest.raises(StorageLockedError):
        run(command, str(store))


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_a_directory_without_a_store_is_named(tmp_path: Path, command: str) -> None:
    with pytest.raises(StorageUnavailableError, match="no lmdb store"):
        run(command, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
