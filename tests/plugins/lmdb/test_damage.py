"""Damaged files give misses, or an index made anew: never wrong bytes, never the death of the process that opens them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import FormatError, StorageUnavailableError
from lms_tiers.messages import OpaqueKey
from tests.depth import some
from tests.plugins.lmdb.whole import assert_whole

MIB = 1 << 20
JOB = Path(__file__).with_name("damage_job.py")
#: 1,000 flips and 100 truncations of each file by hand: DAMAGES=1000.
DAMAGES = int(os.environ.get("DAMAGES", "20"))


@pytest.mark.parametrize("base", some(["closed", "killed"], lambda base: base == "killed"))
@pytest.mark.parametrize(
    "name",
    some(["data", "index.mdb", "journal", "tier"], lambda name: name == "index.mdb"),
)
def test_flips_and_cuts_give_no_wrong_byte_and_kill_nobody(tmp_path: Path, base: str, name: str) -> None:
    root = Path(__file__).resolve().parents[3]
    counts = {"flip": DAMAGES, "truncate": max(2, DAMAGES // 10), "zero": 1}
    job = subprocess.run(
        [sys.executable, str(JOB), str(tmp_path), "20261", *(f"{base}/{name}/{kind}={n}" for kind, n in counts.items())],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert job.returncode == 0, f"exit status {job.returncode}: {job.stderr[-2000:]}"
    happened = json.loads(job.stdout)
    assert happened["whole"] + happened.get("missed", 0) == sum(counts.values())
    assert happened["right"] > 0


def filled(opening: Callable[..., Any], message: Any, content: Any, count: int = 20) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100_000), content(n, 100_000)) for n in range(count)])
        backend.remove(OpaqueKey("3"))
        backend.touch([OpaqueKey("0")])


def rights(backend: Any, content: Any, count: int = 20) -> int:
    found = 0
    for n in range(count):
        obj = backend.get(OpaqueKey(str(n)))
        if obj is not None:
            assert n != 3, "it was removed"
            assert obj.data == content(n, 100_000)
            found += 1
    return found


def broken_index(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[:8192] = bytes(8192)
    path.write_bytes(data)


@pytest.mark.parametrize("harm", ["zeros", "gone", "empty"])
def test_an_index_that_is_lost_is_made_anew_from_the_data(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(opening, message, content)
    index = tmp_path / "store" / "index.mdb"
    if harm == "zeros":
        broken_index(index)
    elif harm == "gone":
        index.unlink()
    else:
        os.truncate(index, 0)
    with caplog.at_level(logging.WARNING), opening() as backend:
        assert rights(backend, content) == 19
        assert "found in the data" in caplog.text
        assert backend.held() == (19, sum(info.stored_bytes for info in backend.scan()))
        backend.put(message("after", 10), content(1, 10))
    with opening() as backend:
        assert rights(backend, content) == 19
        assert backend.get(OpaqueKey("after")) is not None


def test_where_nothing_can_be_saved_the_store_starts_empty_and_nothing_stays_beside_it(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(opening, message, content)
    folder = tmp_path / "store"
    broken_index(folder / "index.mdb")
    names = {path.name for path in folder.iterdir()}
    os.truncate(folder / "data", 4096)
    with caplog.at_level(logging.WARNING), opening() as backend:
        assert backend.list_keys() == []
        backend.put(message("after", 10), content(1, 10))
    assert {path.name for path in folder.iterdir()} == names, "what lies beside it would be outside its capacity"
    assert "its index is damaged; 0 chunks" in caplog.text
    with opening() as backend:
        assert backend.get(OpaqueKey("after")).data == content(1, 10)


@pytest.mark.parametrize(("script", "refused"), [("kill -SEGV $$", False), ("echo no memory >&2; exit 3", True)])
def test_a_child_that_dies_of_the_file_is_no_loss_and_one_that_cannot_run_is_an_error(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    script: str, refused: bool,
) -> None:  # fmt: skip
    filled(opening, message, content)
    (tmp_path / "store" / "journal").unlink()
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(stand_in))
        if refused:
            with pytest.raises(StorageUnavailableError, match="status 3"):
                opening()
        else:
            assert rights(opening(), content) == 19
            return
    with opening() as backend:
        assert rights(backend, content) == 19


def test_a_flipped_byte_is_a_miss_and_a_counter_and_the_chunk_leaves(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    filled(opening, message, content)
    data = tmp_path / "store" / "data"
    broken = bytearray(data.read_bytes())
    broken[broken.find(content(2, 100_000)[:200]) + 5000] ^= 1
    data.write_bytes(broken)
    with opening() as backend:
        assert backend.contains(OpaqueKey("2"))
        assert backend.get(OpaqueKey("2")) is None
        assert backend.stats().corrupt == 1
        assert not backend.contains(OpaqueKey("2"))
        with backend.view(OpaqueKey("2")) as view:
            assert view is None
        assert rights(backend, content) == 18
        backend.put(message("2", 100_000), content(2, 100_000))
    with opening() as backend:
        assert rights(backend, content) == 19


def test_data_cut_short_under_a_running_store_is_misses(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path
) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100_000), content(n, 100_000)) for n in range(20)])
        os.truncate(tmp_path / "store" / "data", 1_000_000)
        found = backend.get_many([OpaqueKey(str(n)) for n in range(20)])
        assert [obj is not None for obj in found] == [True] * 9 + [False] * 11
        assert all(obj is None or obj.data == content(n, 100_000) for n, obj in enumerate(found))
        assert backend.stats().corrupt == 11
        backend.put(message("after", 100_000), content(5, 100_000))
        assert backend.get(OpaqueKey("after")).data == content(5, 100_000)


@pytest.mark.parametrize("name", ["data", "data.mdb"])
@pytest.mark.parametrize("bytes_", [b"some text", b"x" * 100_000])
def test_a_file_that_is_not_ours_is_refused_and_untouched(
    opening: Callable[..., Any], tmp_path: Path, bytes_: bytes, name: str
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / name).write_bytes(bytes_)
    with pytest.raises(FormatError, match="untouched"):
        opening()
    assert (folder / name).read_bytes() == bytes_


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_store_of_another_version_is_refused_and_untouched(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    version: int,
) -> None:  # fmt: skip
    from lms_tiers.plugins.lmdb import layout

    with monkeypatch.context() as patch:
        patch.setattr(layout, "VERSION", version)
        opening().close()
    folder = tmp_path / "store"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "owner"}
    for _ in range(2):
        with pytest.raises(FormatError, match=f"version {version}"):
            opening()
        assert {name: (folder / name).read_bytes() for name in before} == before
        # Also by `data` alone.
        (folder / "journal").unlink(missing_ok=True)
        before.pop("journal", None)


@pytest.mark.parametrize("killed", [False, True])
def test_chunks_beyond_the_end_of_a_file_that_was_cut_short_share_no_page_with_those_put_since(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, killed: bool
) -> None:
    with opening(sync="none") as backend:
        backend.put_many([(message(n, 100_000), content(n, 100_000)) for n in range(6)])
        if killed:
            backend.flush()
            shutil.copytree(tmp_path / "store", tmp_path / "cut")
    if not killed:
        shutil.copytree(tmp_path / "store", tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "data", 4096 + 2 * 102_400 + 8192)
    with opening("cut", sync="none") as backend:
        for n in range(6, 10):
            backend.put(message(n, 100_000), content(n, 100_000))
        assert_whole(backend)
        assert [backend.get(OpaqueKey(str(n))) is None for n in range(6)] == [False, False, *[True] * 4]
        backend.put_many([(message(n, 100_000), content(n, 100_000)) for n in range(10, 14)])
        for n in range(6, 14):
            assert backend.get(OpaqueKey(str(n))).data == content(n, 100_000)
        assert_whole(backend)
