"""Writes docs/api.md from signatures and docstrings, readable without a site: ``python -m scripts.api_page``."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"

HEAD = """# Python API

<!-- Written by `make api-page` from signatures and docstrings; a test compares. -->

Everything in `lms_tiers.__all__` (imported as `from lms_tiers import NAME`), and what else is named here by its module.
What is not here is private. The [contract](contract.md) says what backends promise, [authors](authors.md) who calls
what, and `lms-tiers explain NAME` prints a property, metric, error or option in a terminal.
"""

#: Headings, and what stands below each: ``module:name``, or a module for all that it shows.
ROOMS: Final = {
    "Storage": (
        "factory:CreateStorageBackend", "tiered.store:TieredStore", "tiered.state.tier:TierConfig",
        "plugins.cpu:LMSLocalBackend", "request:RequestContext",
        "tiered.watch.events:EventKind", "tiered.watch.events:EventReason", "tiered.watch.events:TierEvent",
        "tiered.watch.stats",
    ),
    "The contract": ("interface", "capabilities"),
    "Keys, messages and namespaces": (
        "keys:CacheEngineKey", "keys:OpaqueKey", "keys:key_text", "messages", "buffers:own_bytes", "namespace",
        "namespaced:Namespaced",
    ),
    "Plugins": ("hookspecs", "options", "registry:Registry"),
    "Policies": ("policies.base",),
    "Codecs": ("codecs.base",),
    "Metrics": ("metrics.collector:StoreCollector", "metrics.port:MetricsPort", "metrics.scrape"),
    "Errors": ("errors",),
}  # fmt: skip

#: Bases whose methods are the contract's, shown there.
_SHOWN_ELSEWHERE: Final = ("LMSBackendInterface", "LmsTiersError")

#: A heading of a NumPy docstring, and those below which a line without indent names something.
_HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_NAMING: Final = ("Parameters", "Attributes", "Returns", "Raises", "Yields")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, rooms in ROOMS.items():
        parts.append(f"## {title}\n")
        for room in rooms:
            home, _, name = room.partition(":")
            module = importlib.import_module(f"lms_tiers.{home}")
            if not name and module.__doc__:
                parts.append(f"{prose(module.__doc__)}\n")
            for each in [name] if name else public(module):
                parts.append(described(f"lms_tiers.{home}", getattr(module, each)))
    return "\n".join(parts)


def public(module: Any) -> Iterator[str]:
    """The classes and functions that a module defines and does not hide, in its order."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name


def described(home: str, thing: Any) -> str:
    """A class with its methods, or a function."""
    node = _node(thing)
    if isinstance(node, ast.FunctionDef):
        return f"### `{node.name}`\n\n`{signature(node)}`\n\n`{home}`\n\n{prose(thing.__doc__ or '')}\n"
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    lines = [f"### `{node.name}`", "", f"`class {node.name}{f'({bases})' if bases else ''}`", "", f"`{home}`", ""]
    lines += [prose(thing.__doc__ or ""), ""]
    for name, member, owner in members(thing):
        inner = _node(member)
        shown = signature(inner)
        if isinstance(member, property):
            shown = f"{name}: {ast.unparse(inner.returns)}"
        told = prose(inspect.getdoc(getattr(owner, name)) or "")
        lines += [f"#### `{node.name}.{name}`", "", f"`{shown}`", "", told, ""]
    return "\n".join(lines)


def members(kind: type) -> Iterator[tuple[str, Any, type]]:
    """Public methods and properties of a class, those of its bases in this package included, in order of source."""
    seen: set[str] = set()
    own: list[type] = [base for base in kind.__mro__ if base.__module__.startswith("lms_tiers.")]
    for owner in own if kind.__name__ in _SHOWN_ELSEWHERE else [b for b in own if b.__name__ not in _SHOWN_ELSEWHERE]:
        for name, member in vars(owner).items():
            plain = isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member)
            if name.startswith("_") or name in seen or not plain or not _written(member):
                continue
            seen.add(name)
            yield name, member, owner


def _written(member: Any) -> bool:
    """Whether a method stands in a source file, as those that dataclasses and enumerations make do not."""
    try:
        _node(member)
    except (OSError, TypeError):
        return False
    return True


def _node(thing: Any) -> Any:
    source: Any = thing.fget if isinstance(thing, property) else thing
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(source, "__func__", source))))).body[0]


def signature(node: ast.FunctionDef) -> str:
    """As a caller sees it: without `self`."""
    arguments = node.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    answer = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"{node.name}({ast.unparse(arguments)}){answer}"


def prose(text: str) -> str:
    """A NumPy docstring as Markdown: headings in bold, what they name as a list, examples as they are."""
    first, *rest = _HEADING.split(inspect.cleandoc(text))
    parts = [_examples(first.rstrip())]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        told = "\n".join(_list(body.strip("\n"))) if title in _NAMING else _examples(body.strip("\n"))
        parts.append(f"**{title}**\n\n{told}")
    return "\n\n".join(parts)


def _list(body: str) -> Iterator[str]:
    for line in body.splitlines():
        if line and not line.startswith(" "):
            name, colon, kind = line.partition(" : ")
            yield f"- `{name}`" + (f" : {kind}" if colon else "")
        elif line.strip():
            yield f"  {line.strip()}"


def _examples(text: str) -> str:
    """Prompts in a block of their own: the docstring's own test runs them."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        begins = line.startswith(">>>")
        if begins and not inside:
            lines.append("```pycon")
        elif inside and not line:
            lines.append("```")
        inside = begins or (inside and bool(line))
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        same = PAGE.read_text(encoding="utf-8") == text
        sys.exit(0 if same else f"{PAGE.name} is not what the docstrings say: run `make api-page`")
    PAGE.write_text(text, encoding="utf-8")
