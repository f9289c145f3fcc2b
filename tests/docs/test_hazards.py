"""The page of hazards: each has a line of defence in the code and something that proves it, by names that exist."""

from __future__ import annotations

import re

import pytest

from tests.docs.named import ROOT, missing, names_of, properties_of

PAGE = (ROOT / "docs" / "hazards.md").read_text(encoding="utf-8")

#: Rows of three cells below a heading of hazards.
_ROW = re.compile(r"^\|([^|\n]+)\|([^|\n]+)\|([^|\n]+)\|$", re.MULTILINE)
ROWS = [row for row in _ROW.findall(PAGE) if "---" not in row[0] and row[0].strip() != "hazard"]


def test_every_file_symbol_test_and_property_named_exists() -> None:
    assert missing(PAGE) == []


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip() for row in ROWS])
def test_every_hazard_has_a_defence_and_a_proof(row: tuple[str, str, str]) -> None:
    _, defence, proof = row
    tests = [file for file, mark, _ in names_of(proof) if mark == "::"]
    assert tests or properties_of(proof), "no test and no property"
    # The kit asks for it of every backend; a hazard of one file has a defence there.
    assert any(mark != "::" for _, mark, _ in names_of(defence)) or not tests, "no line of defence in the code"


def test_a_name_that_is_not_there_is_found() -> None:
    assert missing("`keys.py:key_text`, `test_keys.py::test_gone`, `keys.py:gone`, `gone.py`, `KEY-01`, `KEY-99`") == [
        "test_keys.py::test_gone", "keys.py:gone", "gone.py", "KEY-99",
    ]  # fmt: skip
