"""A tier's accounting over a bare backend, and how much its files take on the disk."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

from lms_tiers.messages import OpaqueKey


def on_disk(directory: Path, process: int | None = None) -> int:
    """Blocks of every file in a directory, in bytes; and of those that a process has open though they lost their name."""
    blocks: dict[tuple[int, int], int] = {}
    paths = list(directory.iterdir()) if directory.exists() else []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a file is renamed while we look
            found = path.stat()
            blocks[found.st_dev, found.st_ino] = found.st_blocks
    open_files = Path(f"/proc/{process}/fd")
    for link in open_files.iterdir() if process is not None else ():
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(f"{directory}/"):
                found = link.stat()
                blocks[found.st_dev, found.st_ino] = found.st_blocks
    return sum(blocks.values()) * 512


class Tier:
    """Reserve, evict at random, write, take the true charge; what the backend holds already is counted."""

    def __init__(self, backend: Any, seed: int | str) -> None:
        self.backend = backend
        self.random = random.Random(seed)
        self.charges: dict[str, int] = {info.key.to_string(): info.stored_bytes for info in backend.scan()}
        self.used = sum(self.charges.values())

    def put(self, message: Any, data: bytearray) -> None:
        name = message.key.to_string()
        need = self.backend.reserve_bytes(len(data))
        victims = []
        while self.used + need > self.backend.usable_bytes:
            victim = self.random.choice(list(self.charges))
            self.used -= self.charges.pop(victim)
            victims.append(OpaqueKey(victim))
        self.backend.remove_many(victims)
        self.used += need
        self.backend.put(message, data)
        stored = self.backend.stored_bytes(message.key)
        assert stored is not None
        assert stored <= need
        self.used += stored - need - self.charges.get(name, 0)
        self.charges[name] = stored
