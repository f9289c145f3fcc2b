"""Code blocks of a Markdown file, and how to run them: what a reader would type, in order, in one directory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_SKIP = re.compile(r"<!-- not run: (?P<reason>[^>]+) -->\s*\Z")

#: Languages that show something and are not typed by anybody.
SHOWN = {"text", "json", "ini", "dockerfile", "yaml", "mermaid", ""}


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the file it is to be written to, and why it is not run, if so."""

    line: int
    language: str
    title: str | None
    body: str
    skipped: str | None


def blocks(path: Path) -> Iterator[Block]:
    """The blocks of a file, in order."""
    text = path.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        skip = _SKIP.search(text[: match.start()])
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        yield Block(
            text.count("\n", 0, match.start()) + 1,
            language,
            title[1] if title else None,
            body,
            skip["reason"].strip() if skip else None,
        )
