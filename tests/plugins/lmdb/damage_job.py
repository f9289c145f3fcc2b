"""Damages copies of a store's file one after another, opens each, uses it; run in a process of its own.

Prints a line of JSON with what happened; a wrong byte or an exception is a non-zero exit status. Dying is the failure.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb import opening, verify
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.plugins.lmdb.pages import PageFile, tables

CAPACITY = 6 << 20
OPTIONS = LmdbOptions.model_validate({"sync": "none", "codec": "raw"})


def message(name: str, length: int) -> ClientMetaMessage:
    return ClientMetaMessage(ClientCommand.PUT, OpaqueKey(name), length, MemoryFormat.BINARY, None, (length,))  # type: ignore[arg-type]


def build(directory: Path, seed: int) -> dict[str, bytes | None]:
    """A store with overwritten, removed and used chunks of all sizes; what each key holds."""
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
    return truth


def use(directory: Path, truth: dict[str, bytes | None]) -> tuple[int, int]:
    """Open, read everything, write, close: (chunks right, chunks missed)."""
    right = missed = 0
    with open_backend(str(directory), CAPACITY, OPTIONS) as backend:
        for name, data in truth.items():
            key = OpaqueKey(name)
            obj = backend.get(key)
            if obj is None:
                missed += data is not None
                assert not backend.contains(key), "contains what get does not answer"
            else:
                assert data is not None, f"{name} was removed and came back"
                assert bytes(obj.data) == data, f"{name} has wrong bytes"
                right += 1
        list(backend.scan())
        backend.load_state()
        for number in range(0, 80, 4):
            backend.remove(OpaqueKey(f"key {number}"))
        for number in range(12):
            fresh = bytes([number]) * (number * 9000)
            backend.put(message(f"fresh {number}", len(fresh)), bytearray(fresh))
            obj = backend.get(OpaqueKey(f"fresh {number}"))
            assert obj is not None
            assert bytes(obj.data) == fresh
    return right, missed


def damage(data: bytearray, kind: str, draw: random.Random, tree: list[int]) -> None:
    if kind == "flip":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "tree":
        page = draw.choice(tree)
        # Where LMDB's own numbers are: headers and entries, not the noise of inline values.
        data[page * 4096 + min(int(draw.expovariate(1 / 200)), 4095)] ^= 1 << draw.randrange(8)
    elif kind == "truncate":
        del data[draw.randrange(len(data)) :]
    elif kind == "zero":
        data[:4096] = bytes(4096)


def tree_pages(path: Path) -> list[int]:
    """Meta pages, and every page of every tree."""
    file = PageFile(str(path))
    pages = [0, 1]
    for tree in (file.meta.free, file.meta.main, *(t for _, t in tables(file))):
        entries = file.walk(tree, "")
        pages += entries.tree_pages.tolist()
        pages += entries.runs.tolist()
    return pages


def main(folder: Path, kinds: list[str], seed: int) -> None:
    logging.disable(logging.CRITICAL)
    # The child's work in this process, so that a thousand files take seconds; a death is then ours, and seen.
    vars(opening)["verify"] = verify.inspect_file
    draw = random.Random(seed)
    base = folder / "base"
    truth = build(base, seed)
    whole = (base / "data.mdb").read_bytes()
    tree = tree_pages(base / "data.mdb")
    happened: Counter[str] = Counter()
    for number, kind in enumerate(kinds):
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        shutil.copy(base / "state.json", copy)
        data = bytearray(whole)
        damage(data, kind, draw, tree)
        (copy / "data.mdb").write_bytes(data)
        try:
            right, missed = use(copy, truth)
        except BaseException as error:
            raise SystemExit(f"{kind} {number} (seed {seed}): {type(error).__name__}: {error}") from error
        aside = [p for p in copy.iterdir() if ".sick-" in p.name]
        assert not aside or aside[0].read_bytes() == data, "a sick file was changed"
        happened["aside" if aside else "whole" if not missed else "missed"] += 1
        happened["right"] += right
    print(json.dumps(happened))


def arguments() -> Any:
    counts = dict(pair.split("=") for pair in sys.argv[3:])
    return Path(sys.argv[1]), [kind for kind, n in counts.items() for _ in range(int(n))], int(sys.argv[2])


if __name__ == "__main__":
    main(*arguments())
