"""Counts the package by room: ``python -m scripts.lines``. Lines of all kinds, and those of them that are code.

Code is what is neither blank nor a comment nor a docstring; imports are counted with it, and told beside it.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1] / "lms_tiers"

#: Folders whose folders are rooms of their own.
_PARTED: Final = ("plugins", "doors")

#: Tokens that make no line one of code.
_NOTHING: Final = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip


class Lines(NamedTuple):
    """What stands in files: how many, all their lines, those of code, those of imports."""

    files: int = 0
    all: int = 0
    code: int = 0
    imports: int = 0


def lines_of(text: str) -> Lines:
    """Of one file.

    Examples
    --------
    >>> lines_of('import sys\\n\\n\\ndef one():\\n    "What it answers."\\n    return 1  # always\\n')
    Lines(files=1, all=6, code=3, imports=1)
    """
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _NOTHING
        for line in range(token.start[0], token.end[0] + 1)
    }
    imports: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            code -= _span(node.body[0])
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            imports |= _span(node)
    return Lines(1, len(text.splitlines()), len(code), len(imports))


def _span(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def rooms(root: Path = ROOT) -> Iterator[tuple[str, Lines]]:
    """Each room, the largest first; files that are rooms by themselves are told together."""
    found: dict[str, Lines] = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        folders = parts[:-1][: 2 if parts[0] in _PARTED else 1]
        room = "/".join(folders) or "one file each"
        counted = lines_of(path.read_text(encoding="utf-8"))
        found[room] = Lines(*map(sum, zip(found.get(room, Lines()), counted, strict=True)))
    yield from sorted(found.items(), key=lambda item: -item[1].all)


def main() -> None:
    """Print the table."""
    table = list(rooms())
    print("| room | files | lines | of code | of these imports |\n|---|---|---|---|---|")
    for room, counted in [*table, ("all", Lines(*map(sum, zip(*(c for _, c in table), strict=True))))]:
        print(f"| `{room}` |", " | ".join(f"{n:,}" for n in counted), "|")


if __name__ == "__main__":
    main()
