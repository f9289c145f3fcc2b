"""Four hosts with a store each over one Redis Cluster, and what is done to them: the runs of `benchmarks/fleet.py`."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.fleet_net import HERE, Cluster, Network, until
from lms_tiers.replay.simulate_fleet import Route, Router
from lms_tiers.replay.trace import Request
from lms_tiers.resp.nodes import slot_of

HOSTS: Final = 4
SLOTS: Final = 16384


class Host:
    """A store's process on a host of its own."""

    def __init__(self, network: Network, name: str, device: str, spec: dict[str, Any]) -> None:
        command = network.on(name, sys.executable, "-m", "benchmarks.fleet_worker", device, json.dumps(spec))
        self.name: Final = name
        self.process: Final = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE.parent
        )

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def begin(self, do: str, **arguments: Any) -> None:
        """Send a job."""
        self._pipe(self.process.stdin).write(json.dumps({"do": do, **arguments}) + "\n")
        self._pipe(self.process.stdin).flush()

    def line(self) -> str:
        """The next thing it says."""
        line = self._pipe(self.process.stdout).readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return line

    def end(self) -> dict[str, Any]:
        """What came of the job."""
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def close(self) -> None:
        """Let it close its store, and wait for its end."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe(self.process.stdin).close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._pipe(self.process.stdout).close()


class Fleet:
    """Hosts with the same tiers, over a shared one or over nothing."""

    def __init__(self, network: Network, folder: Path, private: str, shared: str, spec: dict[str, Any]) -> None:
        folder.mkdir()
        self.prefix: Final = f"{folder.name}:"
        below = f" > redis:{shared}?prefix={self.prefix}" if shared else ""
        self.hosts: Final = [
            Host(network, f"h{i}", private.format(dir=folder / f"h{i}") + below, spec) for i in range(HOSTS)
        ]
        for host in self.hosts:
            host.line()
        self._fresh: Final = itertools.count()

    def all(self, do: str, arguments: Iterable[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """A job for every host at once."""
        for host, given in zip(self.hosts, arguments or [{}] * HOSTS, strict=True):
            host.begin(do, **given)
        return [host.end() for host in self.hosts]

    def whole(self) -> bool:
        """Whether what each host puts for each of three parts of the slots, all others can read within a second."""
        names: list[list[str]] = []
        for i in range(HOSTS):
            fresh = (f"canary-{i}-{n}" for n in self._fresh)
            names.append([next(n for n in fresh if self._part(n) == part) for part in range(3)])
        self.all("hatch", [{"names": own} for own in names])
        others = [[name for j in range(HOSTS) if j != i for name in names[j]] for i in range(HOSTS)]
        return all(told["seen"] for told in self.all("seen", [{"names": n, "seconds": 1.0} for n in others]))

    def _part(self, name: str) -> int:
        return slot_of((self.prefix + name).encode()) * 3 // SLOTS

    def close(self) -> None:
        """End all of them."""
        for host in self.hosts:
            host.close()


def split(requests: Sequence[Request], route: Route = Route.SESSION) -> list[int]:
    """The host of each request."""
    router = Router(route, HOSTS)
    return [router.choose(request.hash_ids) for request in requests]


def in_step(fleet: Fleet, shares: Sequence[int], told: Callable[[int], None]) -> dict[str, Any]:
    """The whole trace, one request after the other, each on its host; hits by tier and what crossed the network."""
    began, before = time.monotonic(), [report["network"] for report in fleet.all("report")]
    for number, share in enumerate(shares):
        fleet.hosts[share].begin("request", number=number)
        fleet.hosts[share].end()
        told(number)
    reports = fleet.all("report")
    calls = [tuple(call) for answer in fleet.all("unload") for call in answer["calls"]]
    return {
        "seconds": time.monotonic() - began,
        "hits": [sum(level) for level in zip(*(report["hits"] for report in reports), strict=True)],
        "prefix_hits": sum(report["counts"]["hits"] for report in reports),
        "references": sum(report["counts"]["references"] for report in reports),
        "received": sum(report["network"][0] - old[0] for report, old in zip(reports, before, strict=True)),
        "sent": sum(report["network"][1] - old[1] for report, old in zip(reports, before, strict=True)),
        "wrong": [text for report in reports for text in report["wrong"]],
        "corrupt": sum(report["corrupt"] for report in reports),
        "keys": [max(level) for level in zip(*(report["keys"] for report in reports), strict=True)],
        "edges": [report["edge"] for report in reports], "latency": latency(calls),
    }  # fmt: skip


def latency(calls: Iterable[tuple[float, str, float]]) -> dict[str, list[float]]:
    """Calls of each kind, and their 50th and 99th percentile in milliseconds."""
    found, taken = {}, [(what, 1000 * seconds) for _, what, seconds in calls]
    for kind in ("get", "put"):
        times = sorted(ms for what, ms in taken if what == kind)
        if times:
            found[kind] = [len(times), times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]]
    return found


@dataclass
class Fault:
    """Something that is done to a fleet and undone, and what came of it.

    Attributes
    ----------
    held : float
        Seconds it lasted.
    meanwhile, after : float or None
        Seconds until the fleet was whole: from the fault's beginning, while it lasted, and from its end.
    """

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]
    held: float = 0.0
    meanwhile: float | None = None
    after: float = 0.0
    marks: list[float] = field(default_factory=list)

    def run(self, fleet: Fleet, hold: float) -> None:
        """Healthy for `hold` seconds, the fault for as long, then until the fleet is whole."""
        until(fleet.whole, f"before {self.name}, the fleet is whole")
        start = time.monotonic()
        time.sleep(hold)
        self._begun(fleet, hold)
        ended = time.monotonic()
        self.end()
        until(fleet.whole, f"after {self.name}, the fleet is whole")
        self.after = time.monotonic() - ended
        self.marks = [start, ended - self.held, ended, time.monotonic()]

    def _begun(self, fleet: Fleet, hold: float) -> None:
        began = time.monotonic()
        self.begin()
        while (passed := time.monotonic() - began) < hold:
            if self.meanwhile is None and fleet.whole():
                self.meanwhile = time.monotonic() - began
            time.sleep(min(0.05, max(0.0, hold - passed)))
        self.held = time.monotonic() - began


def faults(network: Network, cluster: Cluster) -> list[Fault]:
    """Each of them once."""
    stack = contextlib.ExitStack()
    victims: list[int] = []

    def primary() -> int:
        victims.append(cluster.primaries()[0])
        return victims[-1]

    def each(do: Callable[[int], None]) -> Callable[[], None]:
        def for_all() -> None:
            for i in range(len(cluster.processes)):
                do(i)

        return for_all

    def slow() -> None:
        how = stack.enter_context(network.delay("h3", 0.05))
        print(f"delay by {how}", file=sys.stderr)

    return [
        Fault("a primary killed", lambda: cluster.kill(primary()), lambda: cluster.start(victims[-1])),
        Fault("a primary stopped", lambda: cluster.stop(primary()), lambda: cluster.go_on(victims[-1])),
        Fault("a host cut off", lambda: network.cut("h3"), lambda: network.join("h3")),
        Fault("50 ms to and from a host", slow, stack.close),
        Fault("the whole cluster killed", each(cluster.kill), each(cluster.start)),
    ]
