"""The journal tells what was true at some moment: never a record that is not whole, never one after a gap."""

from __future__ import annotations

from pathlib import Path

import pytest

from lms_tiers.plugins.lmdb.journal import FIRST, GONE, PUT, Journal, Record, kept_runs, replay

SEED, NBYTES = 7, 64 << 10


def filled(folder: Path) -> Journal:
    journal = Journal(folder, NBYTES, SEED, 4)
    for number in range(10):
        journal.append(journal.frame(PUT, number, number * 3, b"x" * (number * 50)))
    journal.turn()
    for number in range(10, 15):
        journal.append(journal.frame(GONE, number, 0, b"key"))
    return journal


def test_it_reads_back_in_the_order_of_the_turns(tmp_path: Path) -> None:
    filled(tmp_path).close()
    found = replay(tmp_path, SEED)
    assert [(generation, [r.sequence for r in records]) for generation, records in found] == [
        (4, list(range(10))),
        (5, list(range(10, 15))),
    ]
    assert found[0][1][3] == Record(PUT, 3, 9, b"x" * 150)
    assert replay(tmp_path, SEED + 1) == []


def test_a_file_used_again_tells_nothing_of_what_it_held_before(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.turn()
    journal.append(journal.frame(GONE, 99, 0, b"key"))
    journal.close()
    assert [(g, [r.sequence for r in records]) for g, records in replay(tmp_path, SEED)] == [
        (5, list(range(10, 15))),
        (6, [99]),
    ]


@pytest.mark.parametrize("at", range(FIRST, FIRST + 700, 13))
def test_of_a_damaged_file_what_came_before_is_told_and_nothing_after(tmp_path: Path, at: int) -> None:
    filled(tmp_path).close()
    path = tmp_path / "journal.0"
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)
    ((generation, records),) = replay(tmp_path, SEED)
    assert generation == 4, "what follows would follow on something else"
    assert [r.sequence for r in records] == list(range(len(records)))
    assert len(records) < 10


@pytest.mark.parametrize("at", range(0, FIRST, 5))
def test_a_damaged_head_is_no_journal(tmp_path: Path, at: int) -> None:
    filled(tmp_path).close()
    path = tmp_path / "journal.1"
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)
    assert [g for g, _ in replay(tmp_path, SEED)] == ([4] if at < 48 else [4, 5])


def test_free_runs_are_kept_where_there_is_room_for_them(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    free, hollow = [(1, 5), (9, 2)], [(100, 1)]
    assert journal.keep_runs(free, hollow)
    journal.close()
    assert kept_runs(tmp_path, SEED) == (free, hollow)
    journal = filled(tmp_path)
    assert not journal.keep_runs([(2 * n, 1) for n in range(NBYTES // 8)], [])
    journal.close()
    assert kept_runs(tmp_path, SEED) is None
