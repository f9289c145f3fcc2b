"""Real Redis servers on loopback, one or a Cluster of three primaries and three replicas."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from lms_conformance.loopback import LoopbackServer

from lms_tiers.client.address import Address
from lms_tiers.resp.link import Link, command

#: Seconds until a condition is given up: longer than any machine is busy.
PATIENCE: Final = 60.0

needs_server = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed: `apt-get install redis-server`"
)


def until(condition: Callable[[], Any]) -> Any:
    """Poll until `condition` is true; answers what it was."""
    deadline, gate = time.monotonic() + PATIENCE, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        gate.wait(0.01)
    return found


class RedisServer(LoopbackServer):
    """One server process; one that was killed is empty when it is healed.

    Parameters
    ----------
    folder : pathlib.Path
        For its files.
    options : str
        As on its command line, without the dashes: ``maxmemory="20mb"``.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        secured = "tls_cert_file" in options
        given = {"port": "0", "tls-port": "{port}"} if secured else {"port": "{port}"}
        given |= {"dir": "{folder}", "bind": "127.0.0.1", "save": "", "appendonly": "no", **options}
        arguments = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", value)]
        super().__init__(("redis-server", *arguments), folder=folder, log=folder / "log")
        self.at: Final = Address("127.0.0.1", self.port)

    def ask(self, *words: str | bytes) -> Any:
        """What it answers to a command; None where it cannot be reached."""
        with contextlib.suppress(OSError), contextlib.closing(Link(self.at, PATIENCE, None)) as link:
            link.send(command(*(word.encode() if isinstance(word, str) else word for word in words)))
            return link.reply()
        return None

    def told(self, name: str, *words: str) -> str:
        """A figure out of a report, such as that of INFO; empty where there is none."""
        lines = (self.ask(*words) or b"").decode().splitlines()
        return next((line.partition(":")[2] for line in lines if line.startswith(name + ":")), "")


class RedisCluster:
    """Six servers, three of them replicas."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.nodes: Final = [
            stack.enter_context(
                RedisServer(
                    folder / str(i), cluster_enabled="yes", cluster_node_timeout="2000", repl_diskless_sync_delay="0", maxmemory="700mb",
                    maxmemory_policy="allkeys-lru",
                )
            )
            for i in range(6)
        ]  # fmt: skip
        places = [f"127.0.0.1:{node.port}" for node in self.nodes]
        create = ["redis-cli", "--cluster", "create", *places, "--cluster-replicas", "1", "--cluster-yes"]
        made = subprocess.run(
            create, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False
        )
        assert made.returncode == 0, made.stdout
        for node in self.nodes:
            until(partial(self._stands, node))
        self.location: Final = ",".join(places[:2])

    @staticmethod
    def _stands(node: RedisServer) -> bool:
        """Whether it knows the whole Cluster, and has its primary's data if it is a replica: else it takes nothing over."""
        replica = node.told("role", "INFO", "replication") == "slave"
        synced = not replica or node.told("master_link_status", "INFO", "replication") == "up"
        listed = (node.ask("CLUSTER", "NODES") or b"").decode().splitlines()
        attached = sum("slave" in line.split()[2] and line.split()[3] != "-" for line in listed)
        return synced and node.told("cluster_state", "CLUSTER", "INFO") == "ok" and attached == 3

    def primaries(self) -> list[RedisServer]:
        """Those that have slots now."""
        return [node for node in self.nodes if node.told("role", "INFO", "replication") == "master"]
