"""The compatibility matrix: checks by releases, as a table of Markdown between two marks of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """What a check saw; where it did not pass, why."""

    passed: bool
    saw: str

    def cell(self) -> str:
        """As a cell of the table: one line, no bars."""
        first = (self.saw.strip().splitlines() or [""])[0].replace("|", "/")
        return first if self.passed else f"**fails**: {first[:120]}"


Results = Mapping[str, Mapping[str, Result]]


def table(engine: str, results: Results) -> str:
    """The table of one engine.

    Parameters
    ----------
    results : mapping of version to (mapping of check to Result)
        Newest version first.
    """
    versions = list(results)
    checks = list(dict.fromkeys(check for seen in results.values() for check in seen))
    rows = [f"| {engine} | {' | '.join(versions)} |", "|---|" + "---|" * len(versions)]
    for check in checks:
        cells = [results[v][check].cell() if check in results[v] else "not run" for v in versions]
        rows.append(f"| {check} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def written(page: str, engine: str, made: str) -> str:
    """`page` with the table of `engine` in place of the one that is there.

    Raises
    ------
    ValueError
        The page has no marks for this engine.
    """
    begin, end = f"<!-- matrix {engine} -->", f"<!-- end of matrix {engine} -->"
    found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not found.search(page):
        raise ValueError(f"the page has no {begin} … {end}")
    return found.sub(lambda _: f"{begin}\n{made}{end}", page)


def write(page: Path, engine: str, made: str) -> None:
    """Put the table of `engine` into the file."""
    page.write_text(written(page.read_text(), engine, made))
