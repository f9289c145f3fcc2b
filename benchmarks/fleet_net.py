"""Hosts of a fleet as network namespaces with addresses of their own, and a Redis Cluster of 3 + 3 on six more.

Needs root, iproute2 and redis-server. Everything is named after this process and taken away at the end of the block.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

PORT: Final = 6379
NODES: Final = 6
PATIENCE: Final = 120.0
HERE: Final = Path(__file__).resolve().parent


def until(condition: Callable[[], Any], what: str, pause: float = 0.05) -> Any:
    """Poll until a condition is true; answers what it was."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: it did not come true in {PATIENCE:.0f} s")
        time.sleep(pause)
    return found


def ip(*words: str) -> None:
    """Run iproute2's `ip`."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Network:
    """A switch, and hosts on it: each a network namespace, the switch one, too, with the bridge in it."""

    def __init__(self) -> None:
        self._name: Final = f"lms{os.getpid()}"
        self.switch: Final = f"{self._name}-sw"
        self._hosts: Final[dict[str, str]] = {}
        self._made: Final[list[str]] = []

    def __enter__(self) -> Network:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # then, too, everything is taken away
        try:
            self._make(self.switch)
            ip("-n", self.switch, "link", "add", "name", "bridge0", "type", "bridge")
            ip("-n", self.switch, "addr", "add", "10.77.0.1/24", "dev", "bridge0")
            ip("-n", self.switch, "link", "set", "bridge0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self, space: str) -> None:
        ip("netns", "add", space)
        self._made.append(space)
        ip("-n", space, "link", "set", "lo", "up")

    def host(self, name: str, address: str) -> None:
        """Add a host."""
        space = self._hosts[name] = f"{self._name}-{name}"
        self._make(space)
        ip("-n", self.switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("-n", self.switch, "link", "set", name, "master", "bridge0", "up")
        ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")

    def on(self, name: str, *command: str) -> list[str]:
        """A command as it runs on a host, `switch` included."""
        return ["ip", "netns", "exec", self.switch if name == "switch" else self._hosts[name], *command]

    def cut(self, name: str) -> None:
        """Take a host off the network."""
        ip("-n", self.switch, "link", "set", name, "down")

    def join(self, name: str) -> None:
        """Put it back."""
        ip("-n", self.switch, "link", "set", name, "up")

    @contextlib.contextmanager
    def delay(self, name: str, seconds: float) -> Iterator[str]:
        """Hold what goes to and comes from a host for so long each; by netem where the kernel has it, which is said."""
        qdisc = ["tc", "qdisc", "add", "dev", name, "root", "netem", "delay", f"{seconds * 1000:.0f}ms"]
        there = ["tc", "qdisc", "add", "dev", "eth0", *qdisc[5:]]
        if subprocess.run(self.on("switch", *qdisc), capture_output=True, check=False).returncode == 0:
            subprocess.run(self.on(name, *there), capture_output=True, check=True)
            yield "netem"
            subprocess.run(self.on("switch", "tc", "qdisc", "del", "dev", name, "root"), check=True)
            subprocess.run(self.on(name, "tc", "qdisc", "del", "dev", "eth0", "root"), check=True)
            return
        # The host's cable goes by way of a process that holds every frame.
        ip("-n", self.switch, "link", "add", "in", "type", "veth", "peer", "name", "out")
        ip("-n", self.switch, "link", "set", "in", "up")
        ip("-n", self.switch, "link", "set", name, "nomaster")
        ip("-n", self.switch, "link", "set", "out", "master", "bridge0", "up")
        line = subprocess.Popen(
            self.on("switch", sys.executable, str(HERE / "fleet_delay.py"), name, "in", str(seconds))
        )
        try:
            yield "a process that holds frames"
        finally:
            line.kill()
            line.wait()
            ip("-n", self.switch, "link", "del", "in")
            ip("-n", self.switch, "link", "set", name, "master", "bridge0")

    def __exit__(self, *raised: object) -> None:
        """Take it all away; the processes on the hosts have ended."""
        for space in reversed(self._made):
            subprocess.run(["ip", "netns", "del", space], check=False)


class Cluster:
    """Three primaries and three replicas, each on a host of its own."""

    def __init__(self, network: Network, folder: Path, maxmemory: int) -> None:
        self._network: Final = network
        self._folder: Final = folder
        self._maxmemory: Final = maxmemory
        self.addresses: Final = [f"10.77.0.{11 + i}" for i in range(NODES)]
        self.processes: Final[list[subprocess.Popen[bytes]]] = []
        for i, address in enumerate(self.addresses):
            network.host(f"n{i}", address)
            self.processes.append(self._start(i))
        places = [f"{address}:{PORT}" for address in self.addresses]
        for address in self.addresses:
            until(partial(self._answers, address), "a node starts")
        create = ["redis-cli", "--cluster", "create", *places, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(network.on("switch", *create), check=True, capture_output=True, timeout=PATIENCE)
        until(self.whole, "the cluster is whole", 0.5)
        self.location: Final = ",".join(places[:3])

    def _start(self, i: int) -> subprocess.Popen[bytes]:
        folder = self._folder / f"n{i}"
        folder.mkdir(exist_ok=True)
        given = {
            "bind": self.addresses[i], "port": PORT, "dir": folder, "protected-mode": "no", "save": "",
            "appendonly": "no", "rdbcompression": "no", "repl-diskless-sync-delay": 0, "cluster-enabled": "yes",
            "cluster-node-timeout": 2000, "maxmemory": self._maxmemory, "maxmemory-policy": "allkeys-lru",
        }  # fmt: skip
        words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(self._network.on(f"n{i}", "redis-server", *words), stdout=log, stderr=log)

    def ask(self, address: str, *words: str) -> str:
        """What a node answers; nothing where it does not within two seconds."""
        command = self._network.on("switch", "redis-cli", "-h", address, *words)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=2, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def _answers(self, address: str) -> bool:
        return self.ask(address, "PING") == "PONG"

    def whole(self) -> bool:
        """Whether all six know each other as well, every replica is attached, and all slots are served."""
        for address in self.addresses:
            info = self.ask(address, "CLUSTER", "INFO")
            nodes = self.ask(address, "CLUSTER", "NODES").splitlines()
            replication = self.ask(address, "INFO", "replication")
            well = sum("fail" not in line.split()[2] and line.split()[7] == "connected" for line in nodes)
            replica = "role:slave" in replication
            if "cluster_state:ok" not in info or well != NODES or (replica and "link_status:up" not in replication):
                return False
        return True

    def primaries(self) -> list[int]:
        """The nodes that have slots now."""
        return [i for i, a in enumerate(self.addresses) if "role:master" in self.ask(a, "INFO", "replication")]

    def kill(self, i: int) -> None:
        """SIGKILL, and wait for its end."""
        self.processes[i].kill()
        self.processes[i].wait()

    def start(self, i: int) -> None:
        """Start it anew, empty, in the place it had."""
        self.processes[i] = self._start(i)

    def stop(self, i: int) -> None:
        """SIGSTOP."""
        self.processes[i].send_signal(signal.SIGSTOP)

    def go_on(self, i: int) -> None:
        """SIGCONT."""
        self.processes[i].send_signal(signal.SIGCONT)

    def chunks(self) -> int:
        """How many all primaries hold together."""
        return sum(int(self.ask(self.addresses[i], "DBSIZE")) for i in self.primaries())

    def close(self) -> None:
        """End all nodes."""
        for process in self.processes:
            process.kill()
            process.wait()
