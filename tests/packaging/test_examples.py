"""Outside plugins, as third parties ship them: built, installed beside the package, reached by their entry points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.packaging.environment import ROOT, Environment, build

pytestmark = [pytest.mark.xdist_group("packaging"), pytest.mark.leaks_allowed]

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
def files_plugin(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    (wheel,) = build(ROOT / "examples" / "lms-tiers-files", tmp_path_factory.mktemp("files"), "--wheel")
    environment.pip(wheel)
    return environment


def test_the_outside_plugin_is_listed_with_its_distribution(files_plugin: Environment) -> None:
    listing = json.loads(files_plugin.run(files_plugin.lms_tiers, "plugins", "--json").stdout)
    (plugin,) = [p for p in listing["plugins"] if p["name"] == "files"]
    assert (plugin["distribution"], plugin["version"], plugin["state"]) == ("lms-tiers-files", "0.1.0", "ok")
    assert plugin["registers"] == {"backends": ["files"]}


@pytest.mark.parametrize("device", ["files:{tmp}/a", "cpu?capacity=1MiB > files:{tmp}/b?capacity=4MiB&sync=true"])
def test_create_storage_backend_reaches_it_alone_and_as_a_tier(
    files_plugin: Environment, tmp_path: Path, device: str
) -> None:
    code = USE.format(root=str(ROOT), device=device.format(tmp=tmp_path))
    files_plugin.run(files_plugin.python, "-c", code)


def test_it_passes_the_conformance_kit_in_its_own_environment(files_plugin: Environment) -> None:
    done = files_plugin.run(files_plugin.lms_tiers, "conform", "files", "--profile", "quick", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
