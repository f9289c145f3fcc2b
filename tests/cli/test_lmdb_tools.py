"""`check`, `inspect` and `compact` tell the truth about a store, mend it, and leave the rest as it was."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import ConfigError, FormatError, StorageLockedError, StorageUnavailableError
from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb import layout
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
    assert (report["chunks"], report["damaged"], report["lost"]) == (12, 0, 0)


def test_check_names_a_damaged_chunk_and_repair_removes_only_that(store: Path) -> None:
    data = store / "data"
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


def test_check_of_a_sick_index_is_exit_status_one_and_repair_makes_it_anew(store: Path) -> None:
    index = store / "index.mdb"
    broken = bytes(8192) + index.read_bytes()[8192:]
    index.write_bytes(broken)
    status, report = run("check", str(store))
    assert (status, report["verdict"], report["chunks"]) == (1, "sick", 12)
    assert index.read_bytes() == broken
    status, report = run("check", str(store), "--repair")
    assert (status, report["repaired"]) == (0, True)
    assert run("check", str(store))[1]["verdict"] == "sound"
    with opened(store) as backend:
        assert len(backend.list_keys()) == 12


def test_what_a_killed_process_left_is_looked_at_as_it_would_be_opened(store: Path, tmp_path: Path) -> None:
    import shutil

    with opened(store) as backend:
        put(backend, "late", noise(50, MIB))
        backend.remove(OpaqueKey("3"))
        shutil.copytree(store, tmp_path / "killed")
    (tmp_path / "killed" / "owner").unlink()
    status, report = run("check", str(tmp_path / "killed"))
    assert (status, report["verdict"], report["chunks"]) == (0, "sound", 12)
    assert run("inspect", str(tmp_path / "killed"))[1]["chunks"] == 12


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
    assert sorted(p.name for p in store.iterdir()) == [
        "data", "index.mdb", "journal", "owner", "tier",
    ]  # fmt: skip


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


def test_a_directory_whose_name_is_no_text_is_a_place_like_any_other(tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/k\xffv"))
    with opened(home) as backend:
        put(backend, "a", noise(1, 5000))
        copy = home.with_name("copy" + home.name)  # as a kill would leave it
        shutil.copytree(home, copy)
    for place in (home, copy):
        assert run("check", str(place))[0] == 0
        assert run("inspect", str(place))[0] == 0
        assert run("compact", str(place))[0] == 0
        with opened(place) as backend:
            found = backend.get(OpaqueKey("a"))
            assert found is not None
            assert found.data == noise(1, 5000)


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_no_bar_is_left_where_there_is_no_terminal(store: Path, command: str) -> None:
    result = CliRunner().invoke(app, [command, str(store)])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


def flipped(store: Path, *patterns: bytes) -> None:
    """Change a byte within each place of `patterns`."""
    data = store / "data"
    broken = bytearray(data.read_bytes())
    for pattern in patterns:
        at = -1
        while (at := broken.find(pattern, at + 1)) >= 0:
            broken[at + len(pattern) // 2] ^= 1
    data.write_bytes(broken)


def test_compact_counts_what_it_drops_as_damaged_apart_from_what_it_keeps(store: Path) -> None:
    with opened(store) as backend:
        put(backend, "a key found once", noise(99, 1000))
    flipped(store, noise(3, 64), noise(5, 64), noise(99, 64))
    status, result = run("compact", str(store))
    assert status == 0
    assert (result["chunks"], result["dropped"], result["damaged"]) == (10, 0, 3)
    with opened(store) as backend:
        assert len(backend.list_keys()) == 10
        assert backend.held()[0] == 10
    told = CliRunner().invoke(app, ["compact", str(store)]).stdout
    assert "10 chunks kept, 0 left out, 0 damaged and dropped" in told


@pytest.mark.parametrize("command", [["check", "--repair"], ["inspect"], ["compact"]], ids=" ".join)
def test_a_directory_of_another_version_is_refused_and_untouched(
    store: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(layout, "VERSION", 4)
        (store / "data").write_bytes(layout.pack_head(1, 1 << 20))
    before = {path.name: path.read_bytes() for path in store.iterdir() if path.name != "owner"}
    with pytest.raises(FormatError, match="version 4"):
        run(*command, str(store))
    assert {name: (store / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("capacity", ["0B", "1KiB"])
def test_a_capacity_that_no_store_can_have_is_refused_and_nothing_is_touched(store: Path, capacity: str) -> None:
    before = (store / "data").read_bytes()
    with pytest.raises(ConfigError, match="at least 1 MiB"):
        run("compact", str(store), "--capacity", capacity)
    assert (store / "data").read_bytes() == before
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


def test_check_of_a_file_that_is_not_ours_mends_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"some text")
    with pytest.raises(FormatError):
        run("check", str(tmp_path), "--repair")
    assert (tmp_path / "data").read_bytes() == b"some text"


@pytest.mark.parametrize("command", ["check", "inspect"])
@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_look_works_on_a_read_only_mount_and_writes_nothing(tmp_path: Path, command: str, end: str) -> None:
    import shutil
    import subprocess

    path, place = tmp_path / "store", tmp_path / "mounted"
    with opened(path) as backend:
        for n in range(3):
            put(backend, n, noise(n, MIB))
        if end == "killed":
            shutil.copytree(path, place)
    if end == "closed":
        shutil.copytree(path, place)
    done = subprocess.run(["mount", "--bind", str(place), str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a mount of its own needs the right to mount: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        before = {p.name: p.stat().st_mtime_ns for p in place.iterdir()}
        assert run(command, str(place))[1]["chunks"] == 3
        assert {p.name: p.stat().st_mtime_ns for p in place.iterdir()} == before
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    "command", [["compact"], ["compact", "--capacity", "8MiB"], ["check", "--repair"]], ids=" ".join
)
def test_a_tool_run_as_root_keeps_owner_group_and_mode(store: Path, command: list[str]) -> None:
    if os.geteuid():
        pytest.skip("needs to be root")
    assert {p.stat().st_mode & 0o777 for p in store.iterdir()} == {0o600}
    for path in (store, *store.iterdir()):
        os.chown(path, 12345, 23456)
    flipped(store, noise(3, 64))
    run(*command, str(store))
    with opened(store) as backend:
        backend.save_state(b"state")
        assert {(p.name, p.stat().st_uid, p.stat().st_mode & 0o777) for p in store.iterdir()} >= {
            (name, 12345, 0o600) for name in ("data", "index.mdb", "journal", "owner")
        }
    assert {(p.stat().st_uid, p.stat().st_gid, p.stat().st_mode & 0o777) for p in store.iterdir()} == {
        (12345, 23456, 0o600)
    }


def test_a_repair_tells_the_log_only_of_what_it_cleared_away(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    flipped(store, noise(3, 64))
    with caplog.at_level(logging.WARNING):
        assert run("check", str(store), "--repair")[1]["repaired"] is True
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_a_store_that_is_open_is_left_alone(store: Path, command: str) -> None:
    with opened(store), pytest.raises(StorageLockedError):
        run(command, str(store))


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_a_directory_without_a_store_is_named(tmp_path: Path, command: str) -> None:
    with pytest.raises(StorageUnavailableError, match="no lmdb store"):
        run(command, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
