"""TLS, client certificates, allowed networks, Unix-domain sockets, and the warning of an open door."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path

import pytest

from lms_tiers.client import Client
from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.metrics.port import MetricsPort
from lms_tiers.metrics.scrape import scrape
from lms_tiers.server.collector import metrics_port
from lms_tiers.server.listening import Listener
from lms_tiers.server.run import announcement
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings
from lms_tiers.server.stream import TlsStream
from tests.server.conftest import Serve
from tests.server.peer import GET, PUT, Peer, header, healthy, wait_until

PEM = Path(__file__).parent / "certificates"
TLS = {"tls_cert": str(PEM / "server.pem"), "tls_key": str(PEM / "server.key")}
MUTUAL = {**TLS, "tls_client_ca": str(PEM / "ca.pem")}


def client_context(*, certificate: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(PEM / "ca.pem"))
    if certificate:
        context.load_cert_chain(PEM / "client.pem", PEM / "client.key")
    return context


def test_tls_carries_small_and_large_chunks(serve: Serve) -> None:
    server = serve(**TLS, max_chunk="8MiB", receive_budget="16MiB")
    body = bytes(range(256)) * 20_000
    with Peer(server, tls=client_context(certificate=False)) as peer:
        peer.put("large", body)
        peer.put("small", b"abc")
        assert peer.get("small") == b"abc"
        assert peer.get("large") == body


def test_a_reader_that_keeps_up_over_tls_is_served_from_the_stored_chunk(serve: Serve) -> None:
    server = serve(**TLS, linger=1)
    body = bytes(range(256)) * 4000
    with Peer(server, tls=client_context(certificate=False)) as peer:
        peer.send(header(PUT, "k", len(body), 1, 6, (len(body), 0, 0, 0)) + body)
        peer.send(header(GET, "k"))
        assert peer.read(36 + len(body))[36:] == body
    assert server.counters["slow_readers"] == 0
    # The budget was only ever taken for the chunk that came in.
    assert server.budget.peak == len(body)


def test_a_tls_peer_that_is_lost_leaves_no_chunk_borrowed() -> None:
    mine, other = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    data = bytearray(200_000)
    with other:
        stream = TlsStream(mine, context, 0.01)
        with memoryview(data) as chunk, pytest.raises(OSError) as lost:
            stream.send([chunk], True)
        stream.close()
    # The error and its traceback still live, and the chunk's memory can be taken back nevertheless.
    assert lost.tb is not None
    data.clear()


def test_a_reader_that_is_only_slow_gets_every_byte_over_tls(serve: Serve) -> None:
    server = serve(**TLS, max_chunk="8MiB", receive_budget="32MiB", stall_timeout=60, min_rate="64KiB")
    body = bytes(range(256)) * 30_000
    with Peer(server, tls=client_context(certificate=False), receive_buffer=4096) as peer:
        peer.put("large", body)
        peer.send(header(GET, "large"))
        wait_until(lambda: server.counters["slow_readers"] == 1)
        peer.read(36)
        assert peer.read(len(body)) == body


def test_a_client_without_a_certificate_of_the_ca_is_turned_away(serve: Serve) -> None:
    server = serve(**MUTUAL)
    with pytest.raises((OSError, ConnectionError)), Peer(server, tls=client_context(certificate=False)) as peer:
        peer.get("k")
    wait_until(lambda: server.counters["tls_failures"] == 1)
    with Peer(server, tls=client_context(certificate=True)) as peer:
        peer.put("k", b"v")
        assert peer.get("k") == b"v"


def test_plain_bytes_and_silence_on_a_tls_port_harm_nobody(serve: Serve) -> None:
    server = serve(**TLS, header_timeout=60)
    with Peer(server) as plain:
        plain.send(header(GET, "k"))
        while not plain.closed():
            pass  # the alert's bytes
    assert server.counters["timeouts"] == 0
    with Peer(server, tls=client_context(certificate=False)) as peer:
        assert peer.get("k") is None
    impatient = serve(**TLS, header_timeout=0.2)
    with Peer(impatient) as silent:
        assert silent.closed()
    assert impatient.counters["timeouts"] == 1


def test_the_projects_client_speaks_tls(serve: Serve) -> None:
    server = serve(**MUTUAL)
    with Client(f"localhost:{server.port}", tls=client_context(certificate=True)) as client:
        assert client.capabilities.remove
        assert not client.list_keys()


@pytest.mark.parametrize(("allow", "admitted"), [(["127.0.0.0/8"], True), (["10.0.0.0/8", "::1/128"], False)])
def test_only_allowed_networks_are_admitted(serve: Serve, allow: list[str], admitted: bool) -> None:
    server = serve(allow=allow)
    with Peer(server) as peer:
        if admitted:
            assert peer.get("k") is None
        else:
            assert peer.closed()
    assert server.counters["connections_refused"] == (not admitted)


def test_a_unix_socket_serves_and_is_for_its_owner(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "lm.sock"
    server = serve(unix=str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert healthy(server)
    with Client(server.address) as client:
        assert [k.to_string() for k in client.list_keys()] == ["healthy"]
    server.close()
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_a_living_one_or_a_file_is_not(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "lm.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = serve(unix=str(path))
    assert healthy(server)
    with pytest.raises(StorageUnavailableError):
        serve(unix=str(path))
    assert healthy(server)
    file = tmp_path / "precious"
    file.write_text("data")
    with pytest.raises(StorageUnavailableError):
        serve(unix=str(file))
    assert file.read_text() == "data"


def test_a_stopping_server_leaves_the_socket_that_its_successor_bound(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "lm.sock"
    stopping = serve(unix=str(path))
    path.unlink()
    successor = serve(unix=str(path))
    stopping.close()
    assert path.is_socket()
    assert healthy(successor)
    path.unlink()
    successor.close()


def test_a_stopping_server_lets_go_of_its_path_before_it_listens_no_more(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lm.sock"
    stopping = serve(unix=str(path))
    close, successors = Listener.close, list[Server]()

    def beside(listener: Listener) -> None:
        monkeypatch.setattr(Listener, "close", close)
        close(listener)
        successors.append(serve(unix=str(path)))

    monkeypatch.setattr(Listener, "close", beside)
    stopping.stop_accepting()
    assert path.is_socket()
    assert healthy(successors[0])


def test_of_two_servers_that_find_a_dead_ones_socket_one_gets_the_path(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lm.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    rename, others = os.rename, list[Server]()

    def beside(source: str, target: str) -> None:
        monkeypatch.setattr(os, "rename", rename)
        others.append(serve(unix=str(path)))
        os.rename(source, target)

    monkeypatch.setattr(os, "rename", beside)
    with pytest.raises(StorageUnavailableError, match="in use"):
        serve(unix=str(path))
    assert healthy(others[0])
    assert [file.name for file in tmp_path.iterdir()] == ["lm.sock"]


@pytest.mark.parametrize("host", ["::1", "::"])
def test_metrics_listen_on_the_addresses_that_the_server_listens_on(serve: Serve, host: str) -> None:
    server = serve(host=host)
    with metrics_port(server, host, 0) as port:
        assert f"http://[{host}]:{port.port}/metrics" in "\n".join(announcement(server, port))
        assert scrape(f"[::1]:{port.port}").server["accepting"] == 1
    assert server.address == f"lm://[{host}]:{server.port}"


def test_a_host_that_no_lookup_takes_is_a_typed_error(serve: Serve) -> None:
    with pytest.raises(StorageUnavailableError, match=r"a\.\.b"):
        serve(host="a..b")
    with pytest.raises(StorageUnavailableError, match=r"a\.\.b"):
        MetricsPort([], "a..b")


def test_a_port_in_use_is_a_typed_error(serve: Serve) -> None:
    server = serve()
    with pytest.raises(StorageUnavailableError, match="in use"):
        serve(port=server.port)


def test_tls_files_that_cannot_be_used_are_a_typed_error(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TLS"):
        serve(tls_cert=str(tmp_path / "none.pem"), tls_key=str(tmp_path / "none.key"))


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "allow": ["10.0.0.0/8"]}, False),
        ({"host": "0.0.0.0", **TLS}, True),
        ({"host": "0.0.0.0", **MUTUAL}, False),
    ],
)
def test_an_open_door_is_announced_with_a_warning(serve: Serve, given: dict[str, object], warned: bool) -> None:
    lines = list(announcement(serve(**given), None))
    assert any("warning" in line for line in lines) == warned
    # LMCache's clients speak no TLS, and nobody connects to 0.0.0.0.
    assert any("remote_url" in line for line in lines) == ("tls_cert" not in given)
    assert not any("0.0.0.0" in line for line in lines if line.startswith("point"))


def test_options_of_the_store_are_announced(serve: Serve) -> None:
    lines = list(announcement(serve(device="store?back_pressure=200ms&close_timeout=10s > cpu?capacity=1MiB"), None))
    assert "store: back_pressure=200ms, close_timeout=10s" in lines
    assert not any(line.startswith("store:") for line in announcement(serve(), None))


def test_the_default_is_loopback() -> None:
    assert make_settings(None, {}).host == "127.0.0.1"
    assert Server.__doc__
