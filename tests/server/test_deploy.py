"""The unit and the image of docs/deploy: their own commands start, reload, probe and end a server."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lms_tiers.server.settings import ServerSettings
from tests.packaging.environment import ROOT, build

pytestmark = pytest.mark.leaks_allowed

UNIT = ROOT / "docs/deploy/lms-tiers.service"
IMAGE = ROOT / "docs/deploy/Containerfile"
STATE = "/var/lib/lms-tiers"


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep the case
    parser.read_string(UNIT.read_text())
    return parser["Service"]


def image() -> dict[str, list[str]]:
    """The instructions of the image, in order, by name."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"(?m)^#.*\n", "", IMAGE.read_text()).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        found.setdefault(name, []).append(rest.strip())
    return found


@contextmanager
def started(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A server started by `command`, and what it announced: address and metrics."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, text=True, env={**os.environ, "PATH": path}, **pipes)  # type: ignore[call-overload]
    try:
        said: dict[str, str] = {}
        for line in child.stdout:
            words = line.split()
            if words[0] in ("listening", "metrics"):
                said[words[0]] = words[2]
            if line.startswith("point lms-tiers"):
                break
        yield child, said
    finally:
        child.kill()
        child.communicate()


def test_the_units_commands_start_reload_and_end_a_server(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(f'port = 0\ndevice = "cpu?capacity=1MiB > lmdb:{tmp_path}/kv?capacity=32MiB"\n')
    start = unit()["ExecStart"].replace("/etc/lms-tiers/server.toml", str(config))
    with started(shlex.split(start)) as (child, said):
        assert said["listening"].startswith("lm://127.0.0.1:")
        reload = unit()["ExecReload"].replace("$MAINPID", str(child.pid))
        subprocess.run(shlex.split(reload), check=True)
        child.terminate()
        assert child.wait(60) == 0


def test_the_unit_gives_a_drain_more_time_than_the_server_takes_and_does_not_restart_a_wrong_setting() -> None:
    assert float(unit()["TimeoutStopSec"]) > ServerSettings().drain_timeout
    assert unit()["RestartPreventExitStatus"] == "2"
    assert int(unit()["LimitNOFILE"]) > ServerSettings().max_connections


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault_in_the_unit() -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.deep
def test_the_image_copies_all_that_its_installation_needs(tmp_path: Path) -> None:
    for line in image()["COPY"]:
        *sources, target = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / "tree" / target)
            else:
                (tmp_path / "tree" / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / "tree" / target)
    (wheel,) = build(tmp_path / "tree", tmp_path / "out", "--wheel")
    names = zipfile.ZipFile(wheel).namelist()
    assert "lms_tiers/server/run.py" in names
    assert "lms_conformance/__init__.py" in names
    # Metrics need their extra, and the entry point turns them on.
    assert any("'.[metrics]'" in line for line in image()["RUN"])


def test_the_image_serves_on_the_ports_it_exposes() -> None:
    assert image()["EXPOSE"] == [f"{ServerSettings().port} 9400"]
    arguments = json.loads(image()["ENTRYPOINT"][0]) + json.loads(image()["CMD"][0])
    assert "--port" not in arguments
    for option in ("--host", "--metrics-host"):
        assert arguments[arguments.index(option) + 1] == "0.0.0.0"


def test_the_images_command_serves_and_its_probe_tells_whether_it_does(tmp_path: Path) -> None:
    entry = json.loads(image()["ENTRYPOINT"][0])
    arguments = [word.replace(STATE, str(tmp_path)).replace("0.0.0.0", "127.0.0.1") for word in
                 entry + json.loads(image()["CMD"][0])]  # fmt: skip
    arguments[arguments.index("9400")] = "0"
    probe = json.loads(image()["HEALTHCHECK"][0].removeprefix("CMD "))
    assert ":9400/" in probe[-1]
    with started([*arguments, "--port", "0"]) as (child, said):
        port = said["metrics"].split(":")[2].partition("/")[0]
        probe = [sys.executable, *probe[1:-1], probe[-1].replace("9400", port)]
        # A container that is given a proxy asks itself all the same.
        proxy = {**os.environ, "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        assert subprocess.run(probe, check=False, env=proxy).returncode == 0
        child.send_signal(getattr(signal, image()["STOPSIGNAL"][0]))
        assert child.wait(60) == 0
        assert subprocess.run(probe, check=False, stderr=subprocess.DEVNULL).returncode != 0
