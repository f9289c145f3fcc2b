"""Damages copies of a store's files one after another, opens each, uses it; run in a process of its own.

Prints a line of JSON with what happened; a wrong byte or an exception is a non-zero exit status. Dying is the failure.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions

CAPACITY = 6 << 20
OPTIONS = LmdbOptions.model_validate({"sync": "none", "codec": "raw"})


def message(name: str, length: int) -> ClientMetaMessage:
    return ClientMetaMessage(ClientCommand.PUT, OpaqueKey(name), length, MemoryFormat.BINARY, None, (length,))  # type: ignore[arg-type]


def build(directory: Path, seed: int) -> dict[str, bytes | None]:
    """A store with overwritten, removed and used chunks of all sizes; what each key holds. Killed copy and closed one."""
    draw = random.Random(seed)
    truth: dict[str, bytes | None] = {}
    with open_backend(str(directory), CAPACITY, OPTIONS) as backend:
        for round_ in range(3):
            for number in range(80):
                name = f"key {number}"
                if draw.random() < 0.3:
                    backend.remove(OpaqueKey(name))
                    truth[name] = None
                    continue
                data = draw.randbytes(draw.choice([0, 7, 300, 1000, 1900, 5000, 70_000]))
                backend.put(message(name, len(data)), bytearray(data))
                truth[name] = data
            backend.touch([OpaqueKey(f"key {n}") for n in range(0, 80, 3 + round_)])
            backend.save_state(draw.randbytes(3000))
            if round_ < 2:
                backend._checkpoints.make()
        shutil.copytree(directory, directory.with_name("killed"))
    return truth


def use(directory: Path, truth: dict[str, bytes | None], strict: bool) -> tuple[int, int]:
    """Open, read everything, write, close: (chunks right, chunks missed). `strict`: nothing removed comes back."""
    right = missed = 0
    with open_backend(str(directory), CAPACITY, OPTIONS) as backend:
        for name, data in truth.items():
            key, room = OpaqueKey(name), bytearray(70_000)
            meta = backend.get_into(key, room)
            if meta is None:
                missed += data is not None
                assert not backend.contains(key), "contains what get does not answer"
            elif strict or bytes(room[: meta.length]) == data:
                assert data is not None, f"{name} was removed and came back"
                assert bytes(room[: meta.length]) == data, f"{name} has wrong bytes"
                right += 1
        list(backend.scan())
        backend.load_state()
        for number in range(0, 80, 4):
            backend.remove(OpaqueKey(f"key {number}"))
        for number in range(12):
            fresh = bytes([number]) * (number * 9000)
            backend.put(message(f"fresh {number}", len(fresh)), bytearray(fresh))
            room = bytearray(len(fresh))
            assert backend.get_into(OpaqueKey(f"fresh {number}"), room) is not None
            assert room == fresh
    return right, missed


def damage(path: Path, kind: str, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "truncate":
        del data[draw.randrange(len(data)) :]
    elif kind == "zero":
        data[:4096] = bytes(min(4096, len(data)))
    os.truncate(path, 0)
    path.write_bytes(data)


def main(folder: Path, seed: int, kinds: list[tuple[str, str, str]]) -> None:
    logging.disable(logging.CRITICAL)
    draw = random.Random(seed)
    truth = build(folder / "closed", seed)
    happened: Counter[str] = Counter()
    for number, (base, name, kind) in enumerate(kinds):
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / base, copy)
        damage(copy / name, kind, draw)
        try:
            # A journal that was damaged ends earlier: what it said since may be undone, as after a power loss.
            right, missed = use(copy, truth, strict=not (base == "killed" and name.startswith("journal")))
        except BaseException as error:
            raise SystemExit(f"{base} {name} {kind} {number} (seed {seed}): {type(error).__name__}: {error}") from error
        happened["whole" if not missed else "missed"] += 1
        happened["right"] += right
    print(json.dumps(happened))


def arguments() -> list[tuple[str, str, str]]:
    """``BASE/NAME/KIND=COUNT`` each."""
    counts = dict(pair.split("=") for pair in sys.argv[3:])
    return [tuple(what.split("/")) for what, count in counts.items() for _ in range(int(count))]  # type: ignore[misc]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), arguments())
