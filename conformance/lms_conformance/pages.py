"""The table of properties inside the contract's page: ``python -m lms_conformance.pages docs/contract.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from lms_conformance.spec import FAMILIES, NEEDS, properties

BEGIN, END = "<!-- properties -->", "<!-- end of properties -->"


def property_table() -> str:
    """Every property by family: ID, promise, and where it applies."""
    out: list[str] = []
    for family, what in FAMILIES.items():
        rows = [p for p in properties() if p.family == family]
        out += [f"### {family}: {what}", "", "| ID | promise | applies |", "|---|---|---|"]
        for p in rows:
            where = " and ".join(f"`{n}`" if not n.startswith("!") else f"not `{n[1:]}`" for n in p.needs) or "always"
            sentence = p.sentence.replace("|", "\\|")
            out.append(f"| {p.id} | {sentence} | {where} |")
        out.append("")
    assert all(n in NEEDS for p in properties() for n in p.needs)
    return "\n".join(out)


def with_table(text: str) -> str:
    """A page with the table between its two marks renewed."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{property_table()}\n{END}{tail}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
