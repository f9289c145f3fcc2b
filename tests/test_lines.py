"""Lines are counted as docs/design.md says they are."""

from __future__ import annotations

import doctest
from pathlib import Path

import scripts.lines
from scripts.lines import Lines, lines_of, rooms


def test_docstrings_comments_and_blank_lines_are_not_code() -> None:
    assert doctest.testmod(scripts.lines).failed == 0
    assert lines_of(
        '"""Told."""\n\n#: Why.\nONE = """of\ntwo"""\n\n\nasync def f():\n    """Told,\n\n    twice."""\n'
    ) == Lines(1, 11, 3)


def test_every_file_is_in_one_room(tmp_path: Path) -> None:
    for name in ("alone.py", "tiered/a.py", "tiered/state/b.py", "plugins/__init__.py", "plugins/lmdb/c.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    assert {room: counted.files for room, counted in rooms(tmp_path)} == {
        "one file each": 1, "tiered": 2, "plugins": 1, "plugins/lmdb": 1,
    }  # fmt: skip
