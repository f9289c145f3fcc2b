"""Wherever a thread of the server is when another one stops it, or lets it go on, it does not wait for ever."""

from __future__ import annotations

import socketserver

import pytest

from lms_tiers.metrics.port import MetricsPort
from lms_tiers.server import budget, reactor, session
from lms_tiers.server.counters import Counters
from lms_tiers.server.reactor import Reactor
from tests.server.conftest import Serve
from tests.server.peer import PUT, Peer, header, wait_until
from tests.stepping import each_stop

BODY = bytes(1024)


@pytest.mark.parametrize(("function", "thread"), [("_sweep", "lm-server-sweep"), ("_work", "lm-server-0")])
def test_the_reactor_stops(monkeypatch: pytest.MonkeyPatch, function: str, thread: str) -> None:
    monkeypatch.setattr(reactor, "_SWEEP_SECONDS", 3600.0)  # nobody comes round by and by
    for stop in each_stop(reactor.__file__, (function,), thread):
        threads = Reactor(2, Counters())
        threads.start()
        stop.beside(threads.stop)


@pytest.mark.parametrize(("file", "function"), [
    (reactor.__file__, "_advance"), (reactor.__file__, "_take"), (session.__file__, "admit"), (budget.__file__, "acquire"),
])  # fmt: skip
def test_a_share_of_the_budget_given_at_any_moment_wakes_who_waits_for_it(
    serve: Serve, file: str, function: str
) -> None:
    for stop in each_stop(file, (function,), "lm-server-", armed=False):
        server = serve(max_chunk="1KiB", receive_budget="1KiB", threads=3)
        with Peer(server) as first, Peer(server) as second:
            first.send(header(PUT, "first", len(BODY), 1, 6, (1, 1, 1, len(BODY))) + BODY[:-1])
            wait_until(lambda server=server: server.budget.used == 1024)  # type: ignore[misc]  # bound here
            stop.arm()
            second.put("second", BODY)
            stop.beside(lambda first=first: first.send(BODY[-1:]))  # type: ignore[misc]  # bound here
            wait_until(lambda server=server: server.budget.used == 0)  # type: ignore[misc]  # bound here
            assert second.exists("first")
            assert second.exists("second")
        server.close()


def test_the_metrics_port_closes() -> None:
    for stop in each_stop(socketserver.__file__, ("serve_forever",), "lms-tiers-metrics", stride=7):
        stop.beside(MetricsPort([]).close)
