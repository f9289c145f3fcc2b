"""The house: imports go down the list of rooms only, and nothing heavy is imported where it must not be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lms_tiers"

#: Rooms from the roof down; those on one line import nothing of each other. docs/design.md says what lives where.
ROOMS = [
    ["__main__"],
    ["cli"],
    ["server"],
    ["doors"],
    ["metrics"],
    ["replay"],
    ["factory"],
    ["registry", "deferred"],
    ["plugin_checks"],
    ["tiered"],
    ["plugins"],
    ["resp", "apart", "remote"],
    ["client"],
    ["wire", "arena"],
    ["policies", "codecs"],
    ["place"],
    ["device", "options"],
    ["sizes", "secrets"],
    ["hookspecs", "changes", "namespaced"],
    ["interface"],
    ["capabilities"],
    ["messages", "namespace", "request"],
    ["keys"],
    ["buffers"],
    ["errors", "version"],
]
#: The rooms of the tiered store likewise.
TIERED = ["store", "batches", "known", "life", "paths", "state", "watch"]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def modules(only: str | None = None) -> Iterator[tuple[str, str, ast.Module]]:
    """Room, name and tree of each file, or of those of one room."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if only in (None, parts[0]):
            yield parts[0], ".".join(p for p in parts if p != "__init__"), ast.parse(path.read_text())


def imports(tree: ast.Module, module: str) -> Iterator[str]:
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            if node.module == "lms_tiers":
                yield from (f"lms_tiers.{alias.name}" for alias in node.names)
            elif node.module:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_room_stands_in_the_list() -> None:
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__"} <= set(LEVEL)


def test_imports_go_down_only() -> None:
    wrong = []
    for room, module, tree in modules():
        if room == "__init__":
            continue
        for name in imports(tree, module):
            target = name.split(".")[1] if name.startswith("lms_tiers.") else None
            if target not in LEVEL or target == room:
                continue
            if LEVEL[target] <= LEVEL[room]:
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_the_rooms_of_the_tiered_store_import_downwards_only() -> None:
    wrong = []
    seen = set()
    for _, module, tree in modules("tiered"):
        if "." not in module:
            continue
        own = module.split(".")[1]
        seen.add(own)
        for name in imports(tree, module):
            if name.startswith("lms_tiers.tiered."):
                target = name.split(".")[2]
                if TIERED.index(target) < TIERED.index(own):
                    wrong.append(f"{module} imports {name}")
    assert not wrong
    assert seen == set(TIERED)


def test_no_file_is_longer_than_a_head_holds() -> None:
    folders = (
        "lms_tiers",
        "conformance",
        "tests",
        "benchmarks",
        "examples",
        "scripts",
        "fuzz",
        "interop",
        "downstream",
    )
    files = [path for folder in folders for path in (PACKAGE.parent / folder).rglob("*.py")]
    assert len(files) > 500
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 400]


def test_plugins_import_nothing_of_each_other() -> None:
    wrong = []
    for _, module, tree in modules("plugins"):
        if "." not in module:
            continue
        own = module.split(".")[1]
        for name in imports(tree, module):
            if name.startswith("lms_tiers.plugins.") and name.split(".")[2] != own:
                wrong.append(f"{module} imports {name}")
    assert not wrong


@pytest.mark.parametrize("engine", ["redis", "s3", "mooncake"])
def test_the_client_of_an_engine_is_one_folder_of_500_lines_at_most(engine: str) -> None:
    files = (PACKAGE / "plugins" / engine).rglob("*.py")
    assert 0 < sum(len(path.read_text().splitlines()) for path in files) <= 500


def test_doors_import_nothing_of_each_other_and_no_room_of_the_store() -> None:
    wrong = []
    folders = {path.name for path in (PACKAGE / "doors").iterdir() if path.is_dir()}
    for room, module, tree in modules("doors"):
        if "." not in module:
            continue
        own = module.split(".")[1]
        for name in imports(tree, module):
            parts = name.split(".")
            other = parts[:2] == ["lms_tiers", "doors"] and len(parts) > 2 and parts[2] in folders - {own}
            inner = parts[:3] in [["lms_tiers", "tiered", room] for room in ("life", "paths", "state")]
            if other or inner:
                wrong.append(f"{module} imports {name}")
    assert not wrong


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["--version"]])
def test_listing_imports_neither_torch_nor_a_backends_library(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from lms_tiers.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'torch', 'numpy', 'lmdb', 'hypothesis', 'matplotlib', 'zstandard'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
