"""The tour leads to files and symbols that are there, and past every room."""

from __future__ import annotations

from tests.docs.named import ROOT, missing, names_of
from tests.test_house import ROOMS

PAGE = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")

#: Rooms with nothing to see on a walk: entry, version, waiting, what stands behind names that the tour names, and the
#: client of one kind of engine, and a library in a process of its own.
PASSED_BY = {
    "__main__", "version", "changes", "sizes", "buffers", "namespace", "keys", "request", "secrets", "resp",
    "apart",
}  # fmt: skip


def test_every_file_and_symbol_named_exists() -> None:
    assert missing(PAGE) == []


def test_it_passes_every_room() -> None:
    named = {file.split("/")[0].removesuffix(".py") for file, _, _ in names_of(PAGE)} | {
        word.rstrip("/") for word in PAGE.split("`") if word.endswith("/")
    }
    rooms = {room for floor in ROOMS for room in floor}
    assert rooms - named == PASSED_BY
