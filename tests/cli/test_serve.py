"""`lms-tiers serve` as a process: what it prints, signals, reload, restart."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from typer.testing import CliRunner

from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.cli import app
from lms_tiers.client import Client
from lms_tiers.errors import ConfigError
from lms_tiers.messages import ClientCommand
from lms_tiers.server import logs
from lms_tiers.wire.plain import encode_request

pytestmark = pytest.mark.leaks_allowed


def read(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server process, its address, and the lines it printed."""
    command = [sys.executable, "-m", "lms_tiers", "serve", *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines: list[str] = []
        for line in read(child.stdout):
            lines.append(line.rstrip())
            if line.startswith("point lms-tiers at it"):
                break
        else:
            raise AssertionError(read(child.stderr).read())
        yield child, lines[0].removeprefix("listening on "), lines
    finally:
        child.kill()
        child.communicate()


def stop(child: subprocess.Popen[str]) -> tuple[int, str]:
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    return child.returncode, errors


def test_it_announces_itself_and_a_restart_keeps_the_cache_warm(tmp_path: Path) -> None:
    device = f"cpu?capacity=1MiB > lmdb:{tmp_path}/kv?capacity=32MiB"
    meta = ChunkMeta(4, MemoryFormat.KV_2LTD, "uint8", (1, 4)).message(OpaqueKey("k"))
    with serving("--port", "0", "--device", device) as (child, address, lines):
        assert address.startswith("lm://127.0.0.1:")
        assert any("cpu  1 MiB" in line for line in lines)
        assert any(f'remote_url: "{address}"' in line for line in lines)
        with Client(address) as client:
            client.put(meta, bytearray(b"warm"))
        assert stop(child)[0] == 0
    with serving("--port", "0", "--device", device) as (child, address, _):
        with Client(address) as client:
            found = client.get(OpaqueKey("k"))
        assert found is not None
        assert found.data == b"warm"
        assert stop(child)[0] == 0


def test_sighup_reloads_capacities_and_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('port = 0\nlog_format = "json"\ndevice = "cpu?capacity=1MiB"\n')
    with serving("--config", str(config)) as (child, address, _):
        errors = read(child.stderr)
        for text, said in (
            ('port = 0\nlog_format = "json"\ndevice = "cpu?capacity=2MiB"\n', "reloaded"),
            ("device = \n", "not reloaded: all is as it was"),
            ('log_format = "json"\ndevice = "cpu?capacity=2MiB&policy=fifo"\n', "not reloaded: all is as it was"),
            ('port = 1\nlog_format = "json"\ndevice = "cpu?capacity=2MiB"\n', "not reloaded: all is as it was"),
        ):
            config.write_text(text)
            child.send_signal(signal.SIGHUP)
            logged = json.loads(errors.readline())
            while logged["message"].startswith(("opened", "plugin")):
                logged = json.loads(errors.readline())
            assert logged["message"] == said, logged
        with Client(address) as client:
            assert client.get(OpaqueKey("k")) is None
        assert stop(child)[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "nonsense"], "nonsense"),
        (["--max-chunk", "12"], "error: server setting max_chunk: size '12' has no unit: write B, KiB"),
        (["--max-chunk", "2GiB"], "error: server: max_chunk must be at least 1 B and below 2 GiB"),
        (["--config", "absent.toml"], "absent.toml"),
        (["--tls-cert", "x.pem"], "belong together"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(options: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lms_tiers", "serve", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert ".." not in done.stderr
    assert "Value error" not in done.stderr


@pytest.mark.parametrize(("finishes", "status"), [(True, 0), (False, 1)])
def test_sigterm_waits_for_a_body_under_way_and_no_longer_than_it_may(
    tmp_path: Path, finishes: bool, status: int
) -> None:
    device = f"lmdb:{tmp_path}/kv?capacity=32MiB"
    frame = encode_request(ClientCommand.PUT, "k", ChunkMeta(4000, MemoryFormat.KV_2LTD, "uint8", (1, 4000)))
    seconds = "30" if finishes else "0.3"
    with serving("--port", "0", "--device", device, "--drain-timeout", seconds) as (child, address, _):
        host, _, port = address.removeprefix("lm://").rpartition(":")
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(frame + bytes(2000))
            child.send_signal(signal.SIGTERM)
            assert "draining" in read(child.stderr).readline() or "draining" in read(child.stderr).readline()
            if finishes:
                peer.sendall(bytes(2000))
            _, errors = child.communicate(timeout=60)
        assert child.returncode == status, errors
        assert ("connections were cut" in errors) != finishes
    with CreateStorageBackend(device) as backend:
        assert backend.contains(OpaqueKey("k")) == finishes


_SIGNALLED_ELSEWHERE = """
import signal, sys, threading
from lms_tiers.server.run import serve
from lms_tiers.server.settings import ServerSettings

def kill():
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

def say(line):
    if line.startswith("point lms-tiers"):
        threading.Timer(0.5, kill).start()  # when the main thread waits

settings = ServerSettings(port=0, device="cpu?capacity=1MiB")
sys.exit(serve(settings, lambda: settings, say))
"""


def test_a_signal_that_the_kernel_gives_to_another_thread_ends_the_server_too() -> None:
    child = subprocess.Popen([sys.executable, "-c", _SIGNALLED_ELSEWHERE])
    try:
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()


def test_the_help_shows_every_default() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for default in ("127.0.0.1", "65432", "cpu?capacity=4GiB", "256MiB", "1GiB", "32", "4096", "30", "none", "text"):
        assert f"[default: {default}]" in shown


def test_a_strict_server_does_not_start_on_a_machine_that_cannot_hold_its_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)  # it would stay with the tests after this one
    done = CliRunner().invoke(app, ["serve", "--port", "0", "--device", "cpu?capacity=900TiB", "--strict"])
    assert isinstance(done.exception, ConfigError)
    assert "900 TiB" in str(done.exception)
