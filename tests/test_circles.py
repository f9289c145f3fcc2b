"""No import circle in the whole tree, package and kit; imports inside functions and for types only count as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"lms_tiers": ROOT / "lms_tiers", "lms_conformance": ROOT / "conformance" / "lms_conformance"}


def modules() -> dict[str, Path]:
    found = {}
    for package, base in PACKAGES.items():
        for path in base.rglob("*.py"):
            parts = (package, *path.relative_to(base).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.Module, known: dict[str, Path]) -> Iterator[str]:
    """Every module of ours that a file imports anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The strongly connected parts of more than one module, by Tarjan's algorithm."""
    number: dict[str, int] = {}
    least: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(name: str) -> None:
        number[name] = least[name] = len(number)
        stack.append(name)
        for other in graph[name]:
            if other not in number:
                visit(other)
            if other in stack:
                least[name] = min(least[name], least[other])
        if least[name] == number[name]:
            part = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(part) > 1:
                found.add(frozenset(part))

    for name in graph:
        if name not in number:
            visit(name)
    return found


def test_no_file_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {
        name: {other for other in imported(ast.parse(path.read_text()), known) if other in known and other != name}
        for name, path in known.items()
    }
    assert not [sorted(circle) for circle in circles(graph)]


def test_circles_are_found_of_any_length() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"g"}, "g": {"f"}}
    assert circles(graph) == {frozenset("abc"), frozenset("fg")}
