"""Damages the header before a part, which names the page it lies on, and uses the store; run in a process of its own.

What it prints is what it found; dying is the failure. ``read`` reads the chunk and others, ``remove`` removes it and
overwrites what is free then.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb import opening, reading, verify
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.layout import key_hash
from lms_tiers.plugins.lmdb.options import LmdbOptions

CHUNKS = 24
LENGTH = 70 << 10
OPTIONS = LmdbOptions.model_validate({"sync": "none", "codec": "raw"})


def data_of(number: int) -> bytearray:
    return bytearray(bytes([number]) * LENGTH)


def put(backend: Any, number: int) -> None:
    key = OpaqueKey(str(number))
    backend.put(
        ClientMetaMessage(ClientCommand.PUT, key, LENGTH, MemoryFormat.BINARY, None, (LENGTH,)),  # type: ignore[arg-type]
        data_of(number),
    )


def whole(backend: Any, numbers: list[int]) -> list[int]:
    """Those that are there; others are misses, and a wrong byte is the end."""
    found = []
    room = bytearray(LENGTH)
    for number in numbers:
        if backend.get_into(OpaqueKey(str(number)), room) is not None:
            assert room == data_of(number), f"{number} has wrong bytes"
            found.append(number)
    return found


def main(directory: Path, what: str, bit: int) -> None:
    with open_backend(str(directory), 32 << 20, OPTIONS) as backend:
        for number in range(CHUNKS):
            put(backend, number)
        with backend._tables.reading() as txn:
            manifest = reading.find(txn, backend._tables, b"3", key_hash(b"3", backend._seed), backend._seed)
            assert manifest is not None
            page = manifest.pages[0]
    with open(directory / "data.mdb", "r+b") as file:
        file.seek(page * 4096)
        file.write((page ^ 1 << bit).to_bytes(8, "little"))
    # As in a store of so many parts that opening does not read the header of each.
    vars(opening)["verify"] = partial(verify.inspect_file, run_heads=0)
    with open_backend(str(directory), 32 << 20, OPTIONS) as backend:
        if what == "remove":
            backend.remove(OpaqueKey("3"))
            for number in range(CHUNKS, 2 * CHUNKS):
                put(backend, number)
        others = [number for number in range(CHUNKS if what == "read" else 2 * CHUNKS) if number != 3]
        print(len(whole(backend, [3])), len(others) - len(whole(backend, others)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
