"""The tables inside the page of adapters: ``python -m lms_conformance.adapters.pages docs/adapters.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from lms_conformance.adapters.interface import INTERFACES, rules


def table(name: str) -> str:
    """Every property of an interface: ID, promise, and where it does not apply."""
    rows = ["| ID | promise | does not apply where |", "|---|---|---|"]
    for p in rules(name):
        rows.append(f"| {p.id} | {p.sentence} | {'; '.join(p.lacks[need] for need in p.needs)} |")
    return "\n".join(rows)


def with_tables(text: str) -> str:
    """A page with the table between each interface's two marks renewed."""
    for name in INTERFACES:
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n\n{table(name)}\n\n{end}{tail}"
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
