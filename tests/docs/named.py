"""What pages name: files with their symbols, tests, properties of the kit. Whoever renames one finds out here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from lms_conformance.adapters.interface import rules
from lms_conformance.spec import properties

ROOT = Path(__file__).resolve().parents[2]

#: Where the name of a file that a page gives may begin: in the package, the kit, the tests, the project.
HOMES = ("lms_tiers", "conformance/lms_conformance", "tests", "")

_QUOTED = re.compile(r"`([^`\n]+)`")
_NAME = re.compile(r"(?P<file>[\w./-]+\.(?:py|md|tmpl))(?:(?P<mark>::?)(?P<symbol>[\w.]+))?")
_PROPERTY = re.compile(r"[A-Z]{3}-[A-Z]?\d\d")

#: Interfaces of engines that the kit has properties of.
ADAPTERS = ("lmcache-connector", "lmcache-l2", "vllm-tier", "hicache")


@lru_cache(maxsize=512)
def defined(path: Path) -> frozenset[str]:
    """What a Python file defines: its names, and those of its classes behind a dot."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")).body))


def _names(body: list[ast.stmt], within: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield within + node.name
        if isinstance(node, ast.ClassDef):
            yield from _names(node.body, f"{within}{node.name}.")
        elif isinstance(node, ast.Assign):
            yield from (within + target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield within + node.target.id


def names_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Each file named in backticks, the mark behind it (``:`` of a symbol, ``::`` of a test) and what follows."""
    for quoted in _QUOTED.findall(text):
        if found := _NAME.fullmatch(quoted):
            yield found["file"], found["mark"] or "", found["symbol"] or ""


def properties_of(text: str) -> list[str]:
    """Each property of the kit named in backticks."""
    return [quoted for quoted in _QUOTED.findall(text) if _PROPERTY.fullmatch(quoted)]


def missing(text: str) -> list[str]:
    """What a text names that is not there."""
    wrong = []
    for file, mark, symbol in names_of(text):
        homes = ("tests",) if mark == "::" else HOMES
        found = [path for home in homes if (path := ROOT / home / file).is_file()]
        if not any(not symbol or symbol in defined(path) for path in found):
            wrong.append(f"{file}{mark}{symbol}")
    known = {prop.id for prop in properties()} | {rule.id for of in ADAPTERS for rule in rules(of)}
    return wrong + [name for name in properties_of(text) if name not in known]
