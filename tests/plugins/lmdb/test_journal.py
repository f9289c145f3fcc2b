"""The journal tells what was true at some moment: never a record that is not whole, never one after a gap."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lms_tiers.plugins.lmdb.journal import GONE, OVERHEAD, PUT, Journal, Record, after, replay
from lms_tiers.plugins.lmdb.layout import PAGE

SEED, NBYTES = 7, 64 << 10
RECORDS = [Record(PUT, number, b"x" * (number * 50)) for number in range(10)]


def begun(folder: Path, position: int = 0) -> Journal:
    journal = Journal(folder, NBYTES, SEED)
    journal.begin(position)
    return journal


def filled(folder: Path) -> Journal:
    journal = begun(folder)
    journal.append(RECORDS)
    return journal


def test_it_reads_back_what_was_appended_from_where_it_is_needed(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    middle = journal.position
    later = [Record(GONE, number, b"key") for number in range(10, 15)]
    for record in later:
        journal.append([record])
    assert replay(tmp_path, SEED, 0) == (journal.position, RECORDS + later)
    assert replay(tmp_path, SEED, middle) == (journal.position, later), "the index has the others"
    journal.release(middle)
    assert replay(tmp_path, SEED, 0) == (journal.position, later)
    assert replay(tmp_path, SEED + 1, 0)[1] == []
    journal.close()


def test_it_is_used_round_and_round(tmp_path: Path) -> None:
    journal, draw = begun(tmp_path), random.Random(1)
    kept: list[Record] = []
    number = 0
    for _ in range(2000):
        some = [Record(PUT, number + n, draw.randbytes(draw.randrange(2000))) for n in range(draw.randrange(1, 4))]
        number += len(some)
        if journal.room < sum(OVERHEAD + len(record.body) for record in some):
            gone = kept[: len(kept) // 2 + 1]
            kept = kept[len(gone) :]
            journal.release(journal._start + sum(OVERHEAD + len(record.body) for record in gone))
            continue
        journal.append(some)
        kept += some
        assert replay(tmp_path, SEED, 0) == (journal.position, kept)
    assert journal.position > 10 * NBYTES
    journal.close()


def test_what_a_crash_left_beyond_a_gap_never_follows_on_what_is_written_later(tmp_path: Path) -> None:
    even = [Record(PUT, number, b"x" * 100) for number in range(10)]
    journal = begun(tmp_path)
    journal.append(even)
    journal.close()
    path = tmp_path / "journal"
    data = bytearray(path.read_bytes())
    data[PAGE + 3 * (100 + OVERHEAD) + 50] ^= 1
    path.write_bytes(data)
    position, records = replay(tmp_path, SEED, 0)
    assert records == even[:3]
    journal = begun(tmp_path, after(position, NBYTES))
    assert replay(tmp_path, SEED, 0) == (journal.position, [])
    journal.append(even[:1])
    assert replay(tmp_path, SEED, 0) == (journal.position, even[:1])
    journal.close()


@pytest.mark.parametrize("at", range(PAGE, PAGE + 700, 13))
def test_of_a_damaged_file_what_came_before_is_told_and_nothing_after(tmp_path: Path, at: int) -> None:
    filled(tmp_path).close()
    path = tmp_path / "journal"
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)
    _, records = replay(tmp_path, SEED, 0)
    assert records == RECORDS[: len(records)]
    assert len(records) < 10


@pytest.mark.parametrize("at", range(0, 40, 5))
def test_where_the_head_is_damaged_the_index_says_what_is_needed(tmp_path: Path, at: int) -> None:
    journal = filled(tmp_path)
    middle = journal.position
    journal.append(RECORDS[:2])
    journal.close()
    path = tmp_path / "journal"
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)
    assert replay(tmp_path, SEED, middle)[1] == RECORDS[:2]
