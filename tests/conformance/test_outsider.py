"""Somebody's backend with somebody's server conforms from the command line alone, by what its spec names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from multiprocessing.connection import Client
from pathlib import Path

import pytest
from lms_conformance.loopback import LoopbackServer

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = [option for name in ("KEY-06", "PUT-06", "RMV-04", "BAT-06", "LIF-08") for option in ("--only", name)]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    path = os.pathsep.join(map(str, (Path(__file__).parent / "outsider", ROOT, ROOT / "conformance")))
    environment = {
        **outside,
        "OUTSIDER_OF": str(cwd),
        "PYTHONPATH": path,
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def servers(of: Path) -> set[str]:
    """Those of the outsider that were started from there and run: other tests have theirs."""
    found, ours = set(), f"OUTSIDER_OF={of}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"outsider.server" in (process / "cmdline").read_bytes():
                found |= {process.name} if ours in (process / "environ").read_bytes().split(b"\0") else set()
        except OSError:
            continue
    return found


@pytest.mark.deep
def test_it_is_tried_by_its_name_and_its_servers_are_gone_afterwards(tmp_path: Path) -> None:
    done = run("lms_tiers", "conform", "outsider", "--profile", "quick", *CHOSEN, "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["backend"] == "outsider.backend.OutsiderBackend"
    assert {r["status"] for r in report["results"]} == {"passed"}
    again = run("lms_tiers", "conform", "--reproduce", "r.json", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "as then: 5 outcomes" in again.stdout
    assert not servers(tmp_path)


@pytest.mark.deep
def test_a_server_that_somebody_started_is_refused_as_one_place_for_all_and_left_as_it_was(tmp_path: Path) -> None:
    command = (sys.executable, str(Path(__file__).parent / "outsider" / "outsider" / "server.py"), "{port}")
    with LoopbackServer(command, folder=tmp_path, log=tmp_path / "log") as server:
        tried = ["lms_tiers", "conform", f"outsider:{server.address}", "--only", "KEY-06"]
        done = run(*tried, cwd=tmp_path)
        assert done.returncode == 2
        assert "opens the same place each time" in done.stderr
        host, _, port = server.address.rpartition(":")
        with Client((host, int(port))) as client:
            client.send(("list", "", None))
            assert client.recv() == []
            client.send(("put", "precious", (b"", b"")))
            client.recv()
            done = run(*tried, cwd=tmp_path)
            assert done.returncode == 2
            assert "not empty: it holds 1 keys, 'precious'" in done.stderr
            client.send(("list", "", None))
            assert client.recv() == ["precious"]


@pytest.mark.deep
def test_known_bugs_are_caught_in_it_and_pytest_and_tiers_find_its_harness(tmp_path: Path) -> None:
    proven = run("lms_tiers", "conform", "outsider", "--profile", "quick", *CHOSEN, "--prove", cwd=tmp_path)
    assert proven.returncode == 0, proven.stdout + proven.stderr
    assert "planted 5 known bugs in outsider: 5 caught" in proven.stdout
    device = "cpu?capacity=64MiB > outsider:{server}"
    tiers = run("lms_tiers", "conform", device, "--profile", "quick", "--only", "OVR-04", cwd=tmp_path)
    assert tiers.returncode == 0, tiers.stdout + tiers.stderr
    options = ["--lms-device", "outsider", "--lms-profile", "quick", "-k", "key_06 or put_06"]
    door = ["-p", "lms_conformance.pytest_door", "-p", "no:cacheprovider", "--pyargs", "lms_conformance"]
    tested = run("pytest", "-q", *door, *options, cwd=tmp_path)
    assert "2 passed" in tested.stdout, tested.stdout + tested.stderr
    assert not servers(tmp_path)
