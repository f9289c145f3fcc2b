"""Servers that the kit starts for a place: reaped always, killed, stalled and healed; an outsider's by its spec alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lms_conformance import ServerHarness, loopback, spawned
from lms_conformance.chunks import Chunk, key, same
from lms_conformance.devices import harness_for
from lms_conformance.loopback import LoopbackServer
from lms_conformance.recipes import load_harness
from lms_conformance.run import run_properties

from lms_tiers.errors import ConfigError, StorageUnavailableError

ROOT = Path(__file__).resolve().parents[2]

#: Says its number of lives so far, kept in its folder, to whoever connects.
COUNTS = (
    "import pathlib, socket, sys\n"
    "file = pathlib.Path(sys.argv[2]) / 'lives'\n"
    "lives = int(file.read_text()) + 1 if file.exists() else 1\n"
    "file.write_text(str(lives))\n"
    "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "while True:\n"
    "    peer, _ = server.accept()\n"
    "    with peer: peer.sendall(str(lives).encode())\n"
)
COMMAND = (sys.executable, "-c", COUNTS, "{port}", "{folder}")


def until(condition: Callable[[], Any]) -> None:
    deadline, gate = time.monotonic() + 60, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        gate.wait(0.01)


def lives(address: str, timeout: float = 30) -> str:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout) as peer:
        return peer.recv(10).decode()


def ended(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    with LoopbackServer(COMMAND, folder=tmp_path / "own", log=tmp_path / "log") as server:
        yield server


def test_a_server_is_killed_and_started_again_at_its_address_with_what_it_kept(server: LoopbackServer) -> None:
    assert lives(server.address) == "1"
    first = server.pid
    server.kill()
    assert ended(first)
    with pytest.raises(OSError, match="refused"):
        lives(server.address)
    server.heal()
    assert lives(server.address) == "2"
    server.stop()
    assert not server.runs


def test_a_server_that_stalls_takes_connections_and_answers_when_it_is_healed(server: LoopbackServer) -> None:
    server.stall()
    with pytest.raises(TimeoutError):
        lives(server.address, 0.2)
    server.heal()
    assert lives(server.address) == "1"
    server.stall()
    server.kill()
    assert ended(server.pid)


@pytest.mark.leaks_allowed
def test_when_stall_returns_the_last_thread_of_the_servers_has_stopped(tmp_path: Path) -> None:
    harness = harness_for("lm:{server}?timeout=1")
    harness.open(tmp_path, 1 << 24).close()
    pid = spawned.servers_beside().pid
    for _ in range(5):
        harness.stall(tmp_path)
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        harness.heal(tmp_path)
        assert set(states) == {"T"}
        assert len(states) > 4
    harness.stop(tmp_path)


def test_no_outgoing_connection_takes_a_servers_port_or_the_one_that_a_cluster_listens_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(loopback._PORTS) + loopback._BUS < max(outgoing, 32_768)  # a lower range is one that somebody has set
    with socket.socket() as bus:
        bus.bind(("127.0.0.1", 0))
        taken = bus.getsockname()[1] - loopback._BUS
        monkeypatch.setattr(loopback, "_PORTS", range(taken, taken + 5))
        drawn = {LoopbackServer(COMMAND, folder=tmp_path, log=tmp_path / "log").port for _ in range(40)}
    assert taken not in drawn


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    silent = LoopbackServer(
        (sys.executable, "-c", "raise SystemExit('no licence')"), folder=tmp_path, log=tmp_path / "log"
    )
    with pytest.raises(StorageUnavailableError, match="no licence"):
        silent.start()
    with pytest.raises(ConfigError, match="nosuch-server"):
        LoopbackServer(("nosuch-server",), folder=tmp_path, log=tmp_path / "log2").start()


def test_a_server_dies_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, threading; from pathlib import Path; from lms_conformance.loopback import LoopbackServer\n"
        "server = LoopbackServer(tuple(sys.argv[2:]), folder=Path(sys.argv[1]), log=Path(sys.argv[1], 'log'))\n"
        "server.start(); server.stall(); print(server.pid, flush=True); threading.Event().wait()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", code, str(tmp_path), *COMMAND]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    until(lambda: ended(pid))


def test_what_a_server_started_dies_with_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    both = f'"$@" & sleep 3600 & echo $! > {started}; wait'
    with LoopbackServer(("sh", "-c", both, "sh", *COMMAND), folder=tmp_path / "own", log=tmp_path / "log"):
        until(lambda: started.exists() and started.read_text().endswith("\n"))
        child = int(started.read_text())
        assert not ended(child)
    until(lambda: ended(child))


def test_places_have_a_server_each_and_another_process_is_a_client_of_the_same(tmp_path: Path) -> None:
    harness = ServerHarness(COMMAND, device="mine:{server}")
    one, two = tmp_path / "one", tmp_path / "two"
    addresses = [harness.start(place, None) for place in (one, two, one)]
    assert addresses[0] == addresses[2] != addresses[1]
    recipe = harness.recipe()
    assert recipe is not None
    assert load_harness(recipe).start(one, None) == addresses[0]
    harness.kill(one)
    harness.heal(one)
    assert (lives(addresses[0]), lives(addresses[1])) == ("2", "1")
    harness.stop(one)
    assert lives(harness.start(one, None)) == "3"
    harness.end()
    with pytest.raises(OSError, match="refused"):
        lives(addresses[1])


def test_a_server_that_does_not_start_is_no_verdict_on_the_backend() -> None:
    harness = ServerHarness([sys.executable, "-c", "raise SystemExit('no module of that name')"], device="lm:{server}")
    with pytest.raises(ConfigError, match=r"lm cannot be tried: .*its server ended: .*no module of that name"):
        run_properties(harness, profile="quick", only=["GET-01"])


def test_places_of_one_server_must_be_told_apart() -> None:
    with pytest.raises(ConfigError, match=r"\{tmp\}"):
        ServerHarness(COMMAND, device="mine:{server}", shared=True)


@pytest.mark.parametrize(
    "device", ["redis:127.0.0.1:6379", "cpu?capacity=1MiB > redis:{server}", "lm:127.0.0.1:7070", "s3:bucket/kv"]
)
def test_a_device_with_a_place_that_others_use_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=r"\{tmp\}"):
        harness_for(device)


@pytest.mark.leaks_allowed
def test_a_place_that_had_no_server_gets_one_once_it_is_sound(tmp_path: Path) -> None:
    harness, place = harness_for("lm:{server}?timeout=1"), tmp_path / "place"
    place.write_bytes(b"in the way")
    with pytest.raises(StorageUnavailableError):
        harness.open(place, 1 << 24)
    place.unlink()
    with harness.open(place, 1 << 24) as backend:
        assert backend.get(key("a")) is None
    harness.stop(place)


@pytest.mark.leaks_allowed
def test_the_servers_of_lm_are_stalled_killed_and_healed(tmp_path: Path) -> None:
    harness = harness_for("lm:{server}?timeout=1")
    assert harness.has_server
    chunk = Chunk(3, 5000)
    with harness.open(tmp_path, 1 << 24) as backend:
        backend.put(chunk.message(key("a")), chunk.data())
        backend.flush()
        harness.stall(tmp_path)
        assert backend.get(key("a")) is None
        harness.heal(tmp_path)
        until(lambda: same(backend.get(key("a")), chunk))
        harness.kill(tmp_path)
        assert backend.get(key("a")) is None
        harness.heal(tmp_path)
        until(lambda: same(backend.get(key("a")), chunk))
    harness.stop(tmp_path)
    assert spawned.servers_beside().start(tmp_path, "cpu?capacity=1MiB")
    spawned.servers_beside().stop(tmp_path)


def test_the_orderly_end_is_asked_for_by_the_signal_that_was_named(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, socket, sys\n"
        "def end(*_): pathlib.Path(sys.argv[2], 'ended').write_text('in order'); sys.exit()\n"
        "signal.signal(signal.SIGINT, end)\n"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True: server.accept()[0].close()\n"
    )
    command = (sys.executable, "-c", code, "{port}", "{folder}")
    with LoopbackServer(command, stop=signal.SIGINT, folder=tmp_path, log=tmp_path / "log") as server:
        server.stop()
    assert (tmp_path / "ended").read_text() == "in order"
