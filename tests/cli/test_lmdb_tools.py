"""`check`, `inspect` and `compact` tell the truth about a store, mend it, and leave the rest as it was."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import ConfigError, FormatError, StorageLockedError, StorageUnavailableError
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
    assert result["chunks"] + result["dropped"] == 12
    with opened(store, capacity=6 * MIB) as backend:
        held = {int(k.to_string()) for k in backend.list_keys()}
        assert 0 in held
        assert held - {0} == set(range(13 - len(held), 12))


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_no_bar_is_left_where_there_is_no_terminal(store: Path, command: str) -> None:
    result = CliRunner().invoke(app, [command, str(store)])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


def flipped(store: Path, *patterns: bytes) -> None:
    """Change a byte within each place of `patterns`."""
    data = store / "data.mdb"
    broken = bytearray(data.read_bytes())
    for pattern in patterns:
        at = -1
        while (at := broken.find(pattern, at + 1)) >= 0:
            broken[at + len(pattern) // 2] ^= 1
    data.write_bytes(broken)


def test_compact_counts_what_it_drops_as_damaged_apart_from_what_it_keeps(store: Path) -> None:
    with opened(store) as backend:
        put(backend, "a key found once", noise(99, 1000))
    flipped(store, noise(3, 64), noise(5, 64), b"a key found once")
    status, result = run("compact", str(store))
    assert status == 0
    assert (result["chunks"], result["dropped"], result["damaged"]) == (10, 0, 3)
    with opened(store) as backend:
        assert len(backend.list_keys()) == 10
        assert backend.held()[0] == 10
    told = CliRunner().invoke(app, ["compact", str(store)]).stdout
    assert "10 chunks kept, 0 left out, 0 damaged and dropped" in told


def test_compact_puts_the_old_file_on_the_medium_before_it_counts_as_closed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(store)))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    run("compact", str(store))
    assert synced.index("/data.mdb") < synced.index("/state.json.new")
    assert synced[-1] == ""  # the directory, once the new file has its name


def test_a_compact_that_cannot_write_is_a_typed_error_and_the_store_is_as_before(store: Path) -> None:
    (store / "compact.new").write_text("in the way")
    before = (store / "data.mdb").read_bytes()
    with pytest.raises(StorageUnavailableError, match="cannot be compacted"):
        run("compact", str(store))
    assert (store / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("command", [["check", "--repair"], ["inspect"], ["compact"]], ids=" ".join)
def test_a_directory_of_another_version_is_refused_and_untouched(store: Path, command: list[str]) -> None:
    state = store / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"version": 3}))
    before = {path.name: path.read_bytes() for path in store.iterdir() if path.name != "owner"}
    with pytest.raises(FormatError, match="version 3"):
        run(*command, str(store))
    assert {name: (store / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("capacity", ["0B", "1KiB"])
def test_a_capacity_that_no_store_can_have_is_refused_and_nothing_is_touched(store: Path, capacity: str) -> None:
    before = (store / "data.mdb").read_bytes()
    with pytest.raises(ConfigError, match="at least 1 MiB"):
        run("compact", str(store), "--capacity", capacity)
    assert (store / "data.mdb").read_bytes() == before
    with opened(store) as backend:
        assert len(backend.list_keys()) == 12


def test_a_store_compacted_to_a_smaller_capacity_opens_with_it_whatever_its_state_took(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with opened(path, capacity=512 * MIB) as backend:
        backend.save_state(noise(1, 1_900_000))
        for n in range(20):
            put(backend, n, noise(n, MIB))
    status, result = run("compact", str(path), "--capacity", "8MiB")
    assert status == 0
    assert result["chunks"] >= 6
    with opened(path, capacity=8 * MIB) as backend:
        assert len(backend.list_keys()) == result["chunks"]
        assert backend.load_state() is None


def test_check_and_opening_agree_on_a_store_whose_first_pages_are_gone(store: Path) -> None:
    data = store / "data.mdb"
    broken = bytearray(data.read_bytes())
    broken[: 2 * 4096] = bytes(2 * 4096)
    data.write_bytes(broken)
    status, report = run("check", str(store))
    assert (status, report["verdict"]) == (1, "sick")
    assert data.read_bytes() == broken
    status, report = run("check", str(store), "--repair")
    assert (status, report["repaired"]) == (0, True)
    aside = [path for path in store.iterdir() if ".sick-" in path.name]
    assert [path.read_bytes() for path in aside] == [broken]
    # As the log says: to look at it, give it a directory of its own.
    (store / "aside").mkdir()
    aside[0].rename(store / "aside" / "data.mdb")
    assert run("check", str(store / "aside"))[1]["verdict"] == "foreign"


def test_check_of_a_file_that_is_not_ours_mends_nothing(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"some text")
    status, report = run("check", str(tmp_path), "--repair")
    assert (status, report["verdict"], report["repaired"]) == (1, "foreign", False)
    assert (tmp_path / "data.mdb").read_bytes() == b"some text"


def test_a_repair_tells_the_log_only_of_what_it_cleared_away(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    flipped(store, noise(3, 64))
    with caplog.at_level(logging.WARNING):
        assert run("check", str(store), "--repair")[1]["repaired"] is True
    assert "clearing away" not in caplog.text


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_a_store_that_is_open_is_left_alone(store: Path, command: str) -> None:
    with opened(store), pytest.raises(StorageLockedError):
        run(command, str(store))


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_a_directory_without_a_store_is_named(tmp_path: Path, command: str) -> None:
    with pytest.raises(StorageUnavailableError, match="no lmdb store"):
        run(command, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
