"""A damaged file gives misses or a cold start: never wrong bytes, never the death of the process that opens it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import ConfigError, FormatError, StorageUnavailableError
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb.layout import CHUNKS, MAGIC
from lms_tiers.plugins.lmdb.pages import PageFile, tables
from lms_tiers.plugins.lmdb.reading import Damaged, find

MIB = 1 << 20
JOB = Path(__file__).with_name("damage_job.py")


def run_job(folder: Path, seed: int, **counts: int) -> dict[str, int]:
    told = [f"{kind}={count}" for kind, count in counts.items()]
    root = Path(__file__).resolve().parents[3]
    job = subprocess.run(
        [sys.executable, str(JOB), str(folder), str(seed), *told],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert job.returncode == 0, f"exit status {job.returncode}: {job.stderr[-2000:]}"
    happened: dict[str, int] = json.loads(job.stdout)
    return happened


def test_a_thousand_byte_flips_give_no_wrong_byte_and_kill_nobody(tmp_path: Path) -> None:
    happened = run_job(tmp_path, 20261, flip=600, tree=400)
    assert happened["aside"] + happened["missed"] + happened["whole"] == 1000
    assert happened["aside"] > 20
    assert happened["missed"] > 100


def test_a_hundred_truncations_and_a_zeroed_first_page_start_cold(tmp_path: Path) -> None:
    happened = run_job(tmp_path, 20262, truncate=100, zero=1)
    assert happened["aside"] >= 100  # a cut within the free pages at the end may harm nothing


def test_a_sick_file_is_found_by_a_child_moved_aside_and_named_in_the_log(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100_000), content(n, 100_000)) for n in range(20)])
    data = tmp_path / "store" / "data.mdb"
    broken = bytearray(data.read_bytes())
    broken[:4096] = bytes(4096)
    data.write_bytes(broken)
    with caplog.at_level(logging.ERROR), opening() as backend:
        assert backend.list_keys() == []
        backend.put(message("after", 10), content(1, 10))
    aside = [p for p in data.parent.iterdir() if ".sick-" in p.name]
    assert [p.read_bytes() for p in aside] == [broken]
    assert str(aside[0]) in caplog.text
    with opening() as backend:
        assert backend.get(OpaqueKey("after")).data == content(1, 10)


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192, 70_000])
def test_a_file_cut_short_is_moved_aside(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, keep: int
) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100_000), content(n, 100_000)) for n in range(20)])
    os.truncate(tmp_path / "store" / "data.mdb", keep)
    with opening() as backend:
        assert backend.list_keys() == []
        backend.put(message("after", 10), content(1, 10))


def test_a_child_that_dies_has_found_the_file_sick(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening() as backend:
        backend.put(message("k", 10), content(1, 10))
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    with opening() as backend:
        assert backend.list_keys() == []
    assert any(".sick-" in p.name for p in (tmp_path / "store").iterdir())


def test_a_child_that_cannot_run_costs_no_data(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening() as backend:
        backend.put(message("k", 10), content(1, 10))
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    failing.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(failing))
        with pytest.raises(StorageUnavailableError, match="no memory"):
            opening()
    with opening() as backend:
        assert backend.get(OpaqueKey("k")).data == content(1, 10)


def test_a_damaged_part_is_a_miss_and_a_counter_and_leaves(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    with opening() as backend:
        for n in range(4):
            backend.put(message(n, MIB), content(n, MIB))
    data = tmp_path / "store" / "data.mdb"
    broken = bytearray(data.read_bytes())
    at = broken.find(content(2, MIB)[:200])  # begins with the seed: found nowhere else
    broken[at + 5000] ^= 1
    data.write_bytes(broken)
    with opening() as backend:
        assert backend.contains(OpaqueKey("2"))
        assert backend.get(OpaqueKey("2")) is None
        assert backend.stats().corrupt == 1
        assert not backend.contains(OpaqueKey("2"))
        with backend.view(OpaqueKey("2")) as view:
            assert view is None
        assert sorted(k.to_string() for k in backend.list_keys()) == ["0", "1", "3"]
        assert backend.get(OpaqueKey("3")).data == content(3, MIB)
        backend.put(message("2", 100), content(5, 100))
        assert backend.get(OpaqueKey("2")).data == content(5, 100)


def test_a_damaged_manifest_is_cleared_away_with_its_parts_at_the_next_opening(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    with opening() as backend:
        for n in range(4):
            backend.put(message(f"chunk number {n}", MIB), content(n, MIB))
        held = backend.stats().detail["stored_bytes"]
    data = tmp_path / "store" / "data.mdb"
    broken = bytearray(data.read_bytes())
    # Every copy of the manifest: the charge's lowest byte.
    at, found = -1, 0
    while (at := broken.find(b"chunk number 2", at + 1)) >= 0:
        found += 1
        head = broken.rfind((MIB).to_bytes(8, "little"), 0, at) - 4 - 24
        broken[head] ^= 1
    assert found
    data.write_bytes(broken)
    with opening() as backend:
        assert sorted(k.to_string() for k in backend.list_keys()) == [f"chunk number {n}" for n in (0, 1, 3)]
        stats = backend.stats()
        assert stats.keys == 3
        assert 0 < stats.detail["stored_bytes"] < held
        assert backend.stats().detail["stored_bytes"] == sum(info.stored_bytes for info in backend.scan())


def test_a_tree_damaged_under_an_open_store_is_a_typed_error(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    data = tmp_path / "store" / "data.mdb"
    names = [OpaqueKey(str(number)) for number in range(600)]
    with opening(sync="none") as backend:
        backend.put_many([(message(number, 600), content(number, 600)) for number in range(600)])
        whole = data.read_bytes()
        file = PageFile(str(data))
        tree = dict(tables(file))[CHUNKS]
        leaf = next(int(page) for page in file.walk(tree, "chunks").tree_pages[::-1] if page != tree.root)
        flags_at = leaf * file.page + 10
        room = bytearray(600)

        def viewed(key: OpaqueKey) -> None:
            with backend.view(key) as view:
                assert view is not None

        calls: dict[str, Callable[[OpaqueKey], Any]] = {
            "get": backend.get, "get_into": lambda key: backend.get_into(key, room), "contains": backend.contains,
            "view": viewed,
        }  # fmt: skip
        with open(data, "r+b") as broken:
            broken.seek(flags_at)
            broken.write(b"\x40\0")  # a page of no kind
            broken.flush()
            failed = {name: sum(_refuses(call, key) for key in names[::3]) for name, call in calls.items()}
            broken.seek(flags_at)
            broken.write(whole[flags_at : flags_at + 2])
        assert 0 < failed["get"] < 200
        assert failed["get"] == failed["get_into"] == failed["contains"] == failed["view"]
        assert backend.get(names[0]).data == content(0, 600)


def _refuses(call: Callable[[OpaqueKey], Any], key: OpaqueKey) -> bool:
    try:
        call(key)
    except StorageUnavailableError:
        return True
    return False


def test_another_applications_lmdb_file_is_refused_and_untouched(opening: Callable[..., Any], tmp_path: Path) -> None:
    import lmdb

    folder = tmp_path / "store"
    folder.mkdir()
    with lmdb.open(str(folder), map_size=MIB) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"value")
    before = (folder / "data.mdb").read_bytes()
    with pytest.raises(FormatError, match="untouched"):
        opening()
    assert (folder / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("bytes_", [b"some text", b"x" * 100_000])
def test_a_file_that_is_no_lmdb_file_is_refused_and_untouched(
    opening: Callable[..., Any], tmp_path: Path, bytes_: bytes
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "data.mdb").write_bytes(bytes_)
    with pytest.raises(FormatError):
        opening()
    assert (folder / "data.mdb").read_bytes() == bytes_


def with_pages(data: bytes, page: int) -> bytes:
    """The two meta pages as LMDB writes them on a machine of larger pages, and nothing else that is right."""
    metas = [data[at : at + 4096] for at in (0, 4096)]
    size_at = 16 + 24  # the first tree's first field is the file's page size
    return b"".join(
        (meta[:size_at] + page.to_bytes(4, "little") + meta[size_at + 4 :]).ljust(page, b"\0") for meta in metas
    ).ljust(4 * page, b"\0")


@pytest.mark.parametrize("page", [8192, 16384, 32768])
def test_a_file_of_larger_pages_is_refused_with_their_size_and_untouched(
    opening: Callable[..., Any], tmp_path: Path, page: int
) -> None:
    opening().close()
    data = tmp_path / "store" / "data.mdb"
    theirs = with_pages(data.read_bytes(), page)
    data.write_bytes(theirs)
    for _ in range(2):
        with pytest.raises(FormatError, match=f"pages of {page >> 10} KiB.*pages of 4 KiB"):
            opening()
        assert data.read_bytes() == theirs
        (tmp_path / "store" / "state.json").unlink(missing_ok=True)


def test_a_machine_of_larger_pages_makes_no_store(
    opening: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmap.PAGESIZE", 16384)
    with pytest.raises(ConfigError, match="pages of 16 KiB"):
        opening()
    assert not (tmp_path / "store" / "data.mdb").exists()


def test_a_plain_file_in_the_directorys_place_is_refused(opening: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    with pytest.raises(FormatError):
        opening()
    assert (tmp_path / "store").read_text() == "mine"


@pytest.mark.parametrize("version", [1, 3])
def test_a_file_of_another_version_is_refused_and_untouched(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    version: int,
) -> None:  # fmt: skip
    from lms_tiers.plugins.lmdb import layout, sidecar

    with monkeypatch.context() as patch:
        patch.setattr(layout, "VERSION", version)
        patch.setattr(sidecar, "VERSION", version)
        with opening() as backend:
            backend.list_keys()
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir() if path.name != "owner"}
    for _ in range(2):
        with pytest.raises(FormatError, match=f"version {version}"):
            opening()
        assert {name: (tmp_path / "store" / name).read_bytes() for name in before} == before
        # Also by the file alone.
        (tmp_path / "store" / "state.json").unlink(missing_ok=True)
        before.pop("state.json", None)


def test_two_keys_of_one_hash_are_told_apart_by_the_key(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lms_tiers.plugins.lmdb import backend as module
    from lms_tiers.plugins.lmdb import preparing

    monkeypatch.setattr(module, "key_hash", lambda key, seed: b"h" * 16)
    monkeypatch.setattr(preparing, "key_hash", lambda key, seed: b"h" * 16)
    with opening() as backend:
        backend.put(message("one", 100), content(1, 100))
        assert backend.get(OpaqueKey("one")).data == content(1, 100)
        assert backend.get(OpaqueKey("two")) is None, "also where the other is remembered"
        backend.remove(OpaqueKey("two"))
        assert backend.get(OpaqueKey("one")).data == content(1, 100)
        backend.put(message("two", 100), content(2, 100))
        assert backend.get(OpaqueKey("one")) is None
        assert backend.get(OpaqueKey("two")).data == content(2, 100)


def test_a_short_or_foreign_manifest_is_damage_not_an_error(opening: Callable[..., Any]) -> None:
    class Records:
        def __init__(self, record: bytes) -> None:
            self.record = record

        def get(self, key: bytes, db: object) -> bytes:
            return self.record

    with opening() as backend:
        for record in (b"", b"x", MAGIC, bytes(300)):
            with pytest.raises(Damaged):
                find(Records(record), backend._tables, b"key", b"h" * 16, 0)
