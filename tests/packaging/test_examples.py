"""Outside plugins, as third parties ship them: built, installed beside the package, reached by their entry points."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.depth import nightly
from tests.packaging.conftest import Beside, MadeOnce
from tests.packaging.environment import ROOT, Environment, build

pytestmark = [pytest.mark.deep, pytest.mark.leaks_allowed]

EXAMPLES = sorted((ROOT / "examples").glob("lms-tiers-*"))

USE = """
import os, sys, torch
import lms_tiers
from lms_tiers import ClientCommand, ClientMetaMessage, CacheEngineKey, CreateStorageBackend, MemoryFormat
assert {root!r} not in lms_tiers.__file__, lms_tiers.__file__
key = CacheEngineKey("m", 1, 0, 7, torch.bfloat16)
data = os.urandom(70_000)
meta = ClientMetaMessage(ClientCommand.PUT, key, len(data), MemoryFormat.KV_2LTD, torch.bfloat16, torch.Size([35_000]))
with CreateStorageBackend({device!r}) as backend:
    backend.put(meta, bytearray(data))
    backend.flush()
    assert bytes(backend.get(key).data) == data
with CreateStorageBackend({device!r}) as backend:
    assert bytes(backend.get(key).data) == data
    assert backend.list_keys() == [key]
"""


@pytest.fixture(scope="session")
def with_examples(made_once: MadeOnce, beside: Beside) -> Environment:
    """An environment with every example, each from its own wheel, made once a run."""

    def fill(home: Path) -> None:
        built = (wheel for source in EXAMPLES for wheel in build(source, home / source.name, "--wheel"))
        beside(home).pip(*built)

    home = made_once("examples", fill)
    return Environment(home / "venv", home / "work")


def test_the_outside_plugins_are_listed_with_their_distributions(with_examples: Environment) -> None:
    listing = json.loads(with_examples.run(with_examples.lms_tiers, "plugins", "--json").stdout)
    found = {p["name"]: (p["distribution"], p["state"], p["registers"]) for p in listing["plugins"]}
    for source in EXAMPLES:
        name = source.name.removeprefix("lms-tiers-")
        assert found[name] == (source.name, "ok", {"backends": [name]})


@pytest.mark.parametrize(
    "device",
    [
        "files:{tmp}/a",
        "cpu?capacity=1MiB > files:{tmp}/b?capacity=4MiB&sync=true",
        "sqlite:{tmp}/c.db",
        "cpu?capacity=1MiB > sqlite:{tmp}/d.db?capacity=8MiB",
        "objects:file://{tmp}/e",
        "cpu?capacity=1MiB > objects:file://{tmp}/f?capacity=4MiB",
    ],
)
def test_create_storage_backend_reaches_them_alone_and_as_tiers(
    with_examples: Environment, tmp_path: Path, device: str
) -> None:
    code = USE.format(root=str(ROOT), device=device.format(tmp=tmp_path))
    with_examples.run(with_examples.python, "-c", code)


#: The tutorial ends with this very code, and runs the kit on it.
IN_THE_TUTORIAL = "lms-tiers-files"


@pytest.mark.parametrize(
    "source",
    [pytest.param(p, id=p.name, marks=[nightly] if p.name == IN_THE_TUTORIAL else []) for p in EXAMPLES],
)
def test_each_passes_the_conformance_kit_in_its_own_directory(
    with_examples: Environment, tmp_path: Path, source: Path
) -> None:
    copy = tmp_path / "tests"
    shutil.copytree(source / "tests", copy)
    done = with_examples.run(with_examples.python, "-m", "pytest", "-q", copy, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
