"""What a reader must pass to understand `get` and `put` of the tiered store grows only where somebody says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.way import CALLS, Code

PAGE = Path(__file__).resolve().parents[1] / "docs" / "design.md"
ROW = re.compile(r"^\| now \| `(\w+)` \| (\d+) \| (\d+) \| ([\d,]+) \| (\d+) \|$", re.MULTILINE)

#: One part in so many that lines may grow by before the page is to be written anew.
SLACK = 20


@pytest.fixture(scope="module")
def code() -> Code:
    return Code()


@pytest.mark.deep
@pytest.mark.parametrize("call", CALLS)
def test_a_way_is_no_longer_than_the_page_says(call: str, code: Code) -> None:
    told = {
        row[1]: [int(figure.replace(",", "")) for figure in row.groups()[1:]] for row in ROW.finditer(PAGE.read_text())
    }
    way = code.way(call)
    files, functions, lines, names = told[call]
    assert len(way.files) <= files
    assert len(way.functions) <= functions + functions // SLACK
    assert way.lines <= lines + lines // SLACK
    assert way.named <= names + names // SLACK
    assert way.lines > lines // 2, "the way was lost: a type that is told no longer, or a figure of long ago"


@pytest.mark.deep
def test_a_way_ends_where_an_interface_begins(code: Code) -> None:
    way = code.way("get")
    assert "lms_tiers.tiered.paths.reads" in way.files
    assert not [file for file in way.files if file.startswith(("lms_tiers.plugins", "lms_tiers.policies"))]
