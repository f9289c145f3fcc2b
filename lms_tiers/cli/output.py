"""Where a command's files go: a path, or ``-`` for standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lms_tiers.errors import StorageUnavailableError


@contextmanager
def open_output(path: Path) -> Iterator[TextIO]:
    """A text file to write, or standard output; what cannot be written is a `StorageUnavailableError`."""
    if str(path) == "-":
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise StorageUnavailableError(str(path), f"cannot be written: {error.strerror or error}.") from error


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document to `path`."""
    with open_output(path) as file:
        file.write(json.dumps(document, indent=2) + "\n")


def check_output(path: Path | None) -> None:
    """Raise `StorageUnavailableError` where a file could not be written: before long work, not after it."""
    if path is None or str(path) == "-":
        return
    if not path.parent.is_dir():
        raise StorageUnavailableError(str(path), f"there is no directory {path.parent}: make it first.")
    if path.is_dir():
        raise StorageUnavailableError(str(path), "is a directory: name a file.")
