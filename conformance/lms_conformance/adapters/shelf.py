"""Where the reference adapters keep chunks: one file each, with what it is and a checksum before the bytes."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Shelf:
    """Chunks by name below a directory.

    Parameters
    ----------
    path : path-like
    whose : object
        What the bytes depend on, by its ``repr``: chunks of others are not there.
    """

    def __init__(self, path: Any, whose: object) -> None:
        digest = hashlib.sha256(repr(whose).encode()).hexdigest()[:16]
        self.place = Path(path) / digest
        self.place.mkdir(parents=True, exist_ok=True)

    def file(self, name: str) -> Path:
        """Of a chunk."""
        return self.place / hashlib.sha256(name.encode()).hexdigest()

    def put(self, name: str, data: Any, what: object = "") -> None:
        """Keep a chunk; `what` it is has to be told to read it.

        Raises
        ------
        OSError
            It cannot be kept, and is not there.
        """
        raw = bytes(data)
        head = hashlib.sha256(repr(what).encode() + raw).digest()
        made = self.file(name).with_suffix(f".{threading.get_ident()}")
        try:
            with made.open("wb") as file:
                file.write(head + raw)
            made.replace(self.file(name))
        except OSError:
            with contextlib.suppress(OSError):
                made.unlink()
            raise

    def get(self, name: str, what: object = "") -> bytes | None:
        """A chunk's bytes; None where it is not there, or is doubtful, and then it is not there any more."""
        try:
            found = self.file(name).read_bytes()
        except OSError:
            return None
        head, raw = found[:32], found[32:]
        if head != hashlib.sha256(repr(what).encode() + raw).digest():
            self.drop(name)
            return None
        return raw

    def has(self, name: str) -> bool:
        """Whether a chunk is there."""
        return self.file(name).exists()

    def drop(self, name: str) -> None:
        """Remove a chunk."""
        self.file(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all."""
        for file in self._files():
            file.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        yield from self.place.iterdir()
