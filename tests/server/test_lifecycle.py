"""Draining, closing, metrics and logs."""

from __future__ import annotations

import json
import logging
import re
import threading
import urllib.error
import urllib.request

import pytest

from lms_tiers import CacheEngineKey, LMSLocalBackend
from lms_tiers.metrics.port import MetricsPort
from lms_tiers.server.collector import metrics_port
from lms_tiers.server.logs import JsonFormatter, TextFormatter
from lms_tiers.server.server import Server
from tests.server.conftest import Serve
from tests.server.peer import EXIST, GET, PUT, Peer, header, wait_until


def test_draining_finishes_a_body_under_way_and_ends_idle_connections(serve: Serve) -> None:
    server = serve(stall_timeout=60)
    with Peer(server) as idle, Peer(server) as busy:
        assert not idle.exists("k")
        busy.send(header(PUT, "k", 1000, 1, 6, (1000, 0, 0, 0)) + bytes(400))
        wait_until(lambda: server.budget.used == 1000)
        left: list[int] = []
        thread = threading.Thread(target=lambda: left.append(server.drain(60)))
        thread.start()
        assert idle.closed()
        busy.send(bytes(600))
        assert busy.closed()
        thread.join()
    assert left == [0]
    assert len(server.backend.list_keys()) == 1
    assert not server.accepting


def test_what_was_sent_before_the_drain_is_still_stored(serve: Serve) -> None:
    server = serve()
    with Peer(server) as peer:
        for i in range(50):
            peer.put(f"k{i}", bytes(1000))
        wait_until(lambda: server.connections == 1)
        assert server.drain(60) == 0
    assert len(server.backend.list_keys()) == 50


class _Held(LMSLocalBackend):
    """A backend that answers `contains` when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.release = threading.Event()

    def contains(self, key: CacheEngineKey) -> bool:
        self.asked.set()
        assert self.release.wait(30)
        return super().contains(key)


def test_a_connection_that_no_thread_has_accepted_yet_is_drained_too(serve: Serve) -> None:
    backend = _Held()
    server = serve(backend, threads=1)
    with Peer(server) as busy:
        busy.send(header(EXIST, "k"))
        assert backend.asked.wait(30)
        with Peer(server) as waiting:  # the kernel has opened it; the only thread is busy
            waiting.put("k", bytes(1000))
            assert server.connections == 1
            server.stop_accepting()
            assert server.connections == 2
            backend.release.set()
            assert server.drain(60) == 0
            assert waiting.closed()
    assert len(server.backend.list_keys()) == 1


def test_draining_gives_up_after_its_time_and_closing_cuts(serve: Serve) -> None:
    server = serve()
    with Peer(server) as peer:
        peer.send(header(PUT, "k", 1000) + bytes(400))
        wait_until(lambda: server.budget.used == 1000)
        assert server.drain(0.1) == 1
        server.close()
        server.close()
        assert peer.closed()
    assert not server.backend.list_keys()
    assert server.budget.used == 0


def fetch(port: MetricsPort, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port.port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


_SAMPLE = re.compile(r'[a-z_:][a-z0-9_:]*(\{([a-z_]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+-]+')


def test_metrics_are_prometheus_text_and_tell_what_happened(serve: Serve) -> None:
    server = serve()
    with metrics_port(server, "127.0.0.1", 0) as port, Peer(server) as peer:
        peer.put("k", b"value")
        assert peer.get("k") == b"value"
        assert peer.get("absent") is None
        wait_until(lambda: server.counters["misses"] == 1)
        status, text = fetch(port, "/metrics")
    assert status == 200
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(_SAMPLE.fullmatch(line) for line in samples), samples
    values = dict(line.rsplit(" ", 1) for line in samples)
    assert values["lms_tiers_server_connections"] == "1.0"
    assert values['lms_tiers_server_events_total{event="hits"}'] == "1.0"
    assert values['lms_tiers_server_request_seconds_count{command="get"}'] == "2.0"
    assert values["lms_tiers_store_keys"] == "1.0"
    kinds = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))


def test_readiness_ends_with_the_drain_and_liveness_does_not(serve: Serve) -> None:
    server = serve()
    with metrics_port(server, "127.0.0.1", 0) as port:
        assert fetch(port, "/readyz")[0] == fetch(port, "/healthz")[0] == 200
        assert fetch(port, "/other")[0] == 404
        server.drain(1)
        assert fetch(port, "/readyz")[0] == 503
        assert fetch(port, "/healthz")[0] == 200
        server.backend.close()
        assert fetch(port, "/metrics")[0] == 200


def test_logs_carry_their_fields_on_one_line() -> None:
    record = logging.makeLogRecord({"msg": "refused %s", "args": ("it",), "peer": "1.2.3.4:5", "fault": "line\nbreak"})
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["peer"], line["fault"]) == ("refused it", "1.2.3.4:5", "line\nbreak")
    text = TextFormatter().format(record)
    assert "\n" not in text
    assert "peer='1.2.3.4:5'" in text


def test_a_protocol_error_is_logged_with_the_peer(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve()
    with caplog.at_level(logging.INFO, "lms_tiers.server"), Peer(server) as peer:
        peer.send(header(77, "k"))
        assert peer.closed()
        wait_until(lambda: any(r.getMessage() == "the peer broke the protocol" for r in caplog.records))
    (record,) = [r for r in caplog.records if r.getMessage() == "the peer broke the protocol"]
    assert record.peer.startswith("127.0.0.1:")  # type: ignore[attr-defined]
    assert "77" in record.fault  # type: ignore[attr-defined]


def test_a_server_closes_under_load() -> None:
    for _ in range(5):
        with LMSLocalBackend() as backend:
            server = _start(backend)
            stop = threading.Event()
            threads = [threading.Thread(target=_hammer, args=(server, stop)) for _ in range(4)]
            for thread in threads:
                thread.start()
            wait_until(lambda: server.counters["hits"] > 20)  # noqa: B023
            server.close()
            stop.set()
            for thread in threads:
                thread.join()
            assert server.connections == 0


def _start(backend: LMSLocalBackend) -> Server:
    from lms_tiers.server.settings import make_settings

    return Server(backend, make_settings(None, {"port": 0, "threads": 4}))


def _hammer(server: Server, stop: threading.Event) -> None:
    try:
        with Peer(server) as peer:
            while not stop.is_set():
                peer.put("k", bytes(50_000))
                peer.send(header(GET, "k"))
                peer.read(36 + 50_000)
    except OSError:
        return
