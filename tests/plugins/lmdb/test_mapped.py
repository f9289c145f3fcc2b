"""Reads from the pages that manifests note: fewer look-ups, the same trust."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import reading
from lms_tiers.plugins.lmdb.layout import Manifest, key_hash, part_key, seal
from lms_tiers.plugins.lmdb.maintenance import compact
from lms_tiers.plugins.lmdb.mapped import address

KIB, MIB = 1 << 10, 1 << 20
JOB = Path(__file__).with_name("headers_job.py")


def manifest_of(backend: Any, name: str) -> Manifest:
    text = name.encode()
    with backend._tables.reading() as txn:
        found = reading.find(txn, backend._tables, text, key_hash(text, backend._seed), backend._seed)
    assert found is not None
    return found


def note_other_pages(backend: Any, name: str, change: Callable[[int], int]) -> None:
    """Rewrite a manifest as if its parts were elsewhere; only while the writer rests."""
    manifest = manifest_of(backend, name)
    hashed = key_hash(name.encode(), backend._seed)
    tables = backend._tables
    with tables.env.begin(write=True, buffers=True) as txn:
        record = bytearray(txn.get(hashed, db=tables.chunks))
        pages = [change(page) for page in manifest.pages]
        seal(record, manifest.sequence, manifest.created, pages, backend._seed)
        txn.put(hashed, record, db=tables.chunks)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parts were looked up from now on, a number for each time that any were."""
    counts: list[int] = []
    stored = reading.stored

    def counting(*args: Any) -> Any:
        parts = stored(*args)
        counts.append(len(parts))
        return parts

    monkeypatch.setattr(reading, "stored", counting)
    return counts


@pytest.mark.parametrize(
    ("length", "asks"), [(70 * KIB, 0), (256 * KIB, 1), (2 * MIB, 0), (2 * MIB + 1500, 1), (2 * MIB + 64 * KIB, 0)]
)
def test_of_several_parts_those_with_pages_of_their_own_are_not_looked_up(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, length: int, asks: int
) -> None:
    data, target = content(4, length), bytearray(length)
    with opening() as backend:
        backend.put(message("k", length), data)
        assert backend.get_into(OpaqueKey("k"), target).length == length
        counts = asked(monkeypatch)
        target[:] = bytes(length)
        assert backend.get_into(OpaqueKey("k"), target).length == length
        assert target == data
        assert sum(counts) == asks


def test_noted_pages_are_those_of_the_parts_wherever_churn_has_scattered_them(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    draw = random.Random(3)
    held: dict[str, bytearray] = {}
    with opening(capacity=16 * MIB) as backend:
        tables = backend._tables
        for number in range(150):
            length = draw.randrange(1500 * KIB)
            while backend.stats().detail["stored_bytes"] + backend.reserve_bytes(length) > backend.usable_bytes:
                victim = draw.choice(sorted(held))
                backend.remove(OpaqueKey(victim))
                del held[victim]
            held[str(number)] = content(number, length)
            backend.put(message(number, length), held[str(number)])
        runs = 0
        some = next(name for name, data in held.items() if len(data) > 64 * KIB)
        assert backend.get_into(OpaqueKey(some), bytearray(len(held[some]))) is not None
        with tables.reading() as txn:
            for name in held:
                manifest = manifest_of(backend, name)
                for part, page in enumerate(manifest.pages):
                    value = txn.get(part_key(manifest.sequence, part), db=tables.parts)
                    known = len(manifest.pages) > 1 and len(value) > 2020
                    assert page == (tables.mapped.note(value, 10) if known else 0)
                    assert not known or address(value) % 4096 == 16
                runs += sum(1 for _ in tables.mapped._runs(manifest.pages, manifest.groups))
        assert runs > len(held)  # some chunks are in pieces
        for _ in range(2):
            for name, data in held.items():
                target = bytearray(len(data))
                assert backend.get_into(OpaqueKey(name), target) is not None
                assert target == data
        assert not tables.mapped._wrong


@pytest.mark.parametrize(
    "change", [lambda page: page + 1, lambda page: page - 1, lambda page: 2, lambda page: 2**32 - 1]
)
def test_pages_that_are_not_the_chunks_cost_a_look_up_and_no_byte(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[int], int],
) -> None:  # fmt: skip
    size = MIB + 100
    with opening() as backend:
        for name in ("a", "b"):
            backend.put(message(name, size), content(ord(name), size))
        target = bytearray(size)
        assert backend.get_into(OpaqueKey("a"), target) is not None
        note_other_pages(backend, "b", change)
        counts = asked(monkeypatch)
        for name in ("b", "a", "b"):
            assert backend.get_into(OpaqueKey(name), target) is not None
            assert target == content(ord(name), size)
        assert backend.stats().corrupt == 0
        assert sum(counts) > 0


def test_damage_on_noted_pages_is_a_miss_and_the_others_are_read_as_before(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening() as backend:
        for number in range(3):
            backend.put(message(number, MIB), content(number, MIB))
        at = manifest_of(backend, "1").pages[2] * 4096 + 16 + 777
    data = tmp_path / "store" / "data.mdb"
    broken = bytearray(data.read_bytes())
    broken[at] ^= 16
    data.write_bytes(broken)
    with opening() as backend:
        target = bytearray(MIB)
        assert backend.get_into(OpaqueKey("0"), target) is not None
        assert backend.get_into(OpaqueKey("1"), target) is None
        assert backend.stats().corrupt == 1
        counts = asked(monkeypatch)
        assert backend.get_into(OpaqueKey("2"), target) is not None
        assert target == content(2, MIB)
        assert counts == []


def test_a_compacted_file_notes_where_the_parts_are_now(
    opening: Callable[..., Any], message: Any, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening() as backend:
        for number in range(8):
            backend.put(message(number, MIB), content(number, MIB))
        backend.remove_many([OpaqueKey(str(number)) for number in range(0, 8, 2)])
        before = manifest_of(backend, "7")
    compact(tmp_path / "store", None, lambda count: lambda done: None)
    with opening() as backend:
        after = manifest_of(backend, "7")
        assert after.pages != before.pages
        assert (after.sequence, after.created, after.checksum) == (before.sequence, before.created, before.checksum)
        target = bytearray(MIB)
        assert backend.get_into(OpaqueKey("1"), target) is not None
        counts = asked(monkeypatch)
        assert backend.get_into(OpaqueKey("7"), target) is not None
        assert target == content(7, MIB)
        assert counts == []


def test_readers_beside_a_writer_that_reuses_pages_get_their_chunk_or_a_miss(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    size = 600 * KIB
    with opening(capacity=8 * MIB) as backend:
        for number in range(6):
            backend.put(message(number, size), content(number, size))
        stop = threading.Event()
        failures: list[str] = []
        reads = [0, 0]

        def read(mine: int) -> None:
            draw = random.Random(mine)
            target = bytearray(size)
            while not stop.is_set():
                number = draw.randrange(6)
                if backend.get_into(OpaqueKey(str(number)), target) is not None:
                    generation = int.from_bytes(target[:8], "little")
                    if generation % 6 != number or target != content(generation, size):
                        failures.append(f"{number}: {generation}")
                    reads[mine] += 1

        readers = [threading.Thread(target=read, args=(mine,)) for mine in range(2)]
        for reader in readers:
            reader.start()
        try:
            for generation in range(6, 200):
                backend.remove(OpaqueKey(str((generation + 3) % 6)))
                backend.put(message(generation % 6, size), content(generation, size))
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert not failures
        assert min(reads) > 0
        assert backend.stats().corrupt == 0
        assert not backend._tables.mapped._wrong


def run_headers_job(folder: Path, what: str, bit: int) -> list[int]:
    """How many were there of the one chunk whose first part's header has that bit flipped; how many others were lost."""
    root = Path(__file__).resolve().parents[3]
    job = subprocess.run(
        [sys.executable, str(JOB), str(folder / "store"), what, str(bit)],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert job.returncode == 0, f"exit status {job.returncode}: {job.stderr[-2000:]}"
    return [int(word) for word in job.stdout.split()]


@pytest.mark.parametrize("bit", [1, 30])
def test_a_flipped_page_number_before_a_part_kills_no_reader(tmp_path: Path, bit: int) -> None:
    # The bytes are whole: only LMDB, which frees by this number, must not see it.
    assert run_headers_job(tmp_path, "read", bit) == [1, 0]


@pytest.mark.parametrize("bit", [4, 7])
def test_removing_a_chunk_whose_parts_header_names_another_page_costs_no_other_chunk(tmp_path: Path, bit: int) -> None:
    assert run_headers_job(tmp_path, "remove", bit) == [0, 0]
