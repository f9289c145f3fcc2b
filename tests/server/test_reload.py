"""A reload takes everything over or nothing, and says what is in force."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend
from lms_tiers.errors import ConfigError, DeadlineExceededError
from lms_tiers.place.machine import Machine
from lms_tiers.server.reload import reload
from lms_tiers.server.server import Server
from lms_tiers.server.settings import ServerSettings, make_settings
from lms_tiers.tiered.store import TieredStore
from tests.server.conftest import Serve
from tests.server.peer import Peer, healthy

PEM = Path(__file__).parent / "certificates"


def device(upper: int, lower: int) -> str:
    """Two tiers; the lower one takes all its memory when it is opened and cannot grow beyond that."""
    return f"cpu?capacity={upper}MiB > pinned?pin=off&capacity={lower}MiB"


@pytest.fixture
def two(serve: Serve) -> tuple[Server, Callable[..., ServerSettings]]:
    """A server over 64 and 32 MiB, and its settings with others in place of some."""
    server = serve(CreateStorageBackend(device(64, 32)), device=device(64, 32))

    def settings(**other: Any) -> ServerSettings:
        return make_settings(None, {"port": 0, "threads": 4, "max_chunk": "1MiB", "receive_budget": "4MiB", **other})

    return server, settings


def in_force(server: Server) -> list[int | None]:
    stats: Any = server.backend.stats()
    return [tier.capacity_bytes and tier.capacity_bytes >> 20 for tier in stats.tiers]


@pytest.mark.parametrize("upper", [32, 128])
def test_one_capacity_that_cannot_be_leaves_all_as_they_were(
    two: tuple[Server, Callable[..., ServerSettings]], caplog: pytest.LogCaptureFixture, upper: int
) -> None:
    server, settings = two
    first = server.settings
    with caplog.at_level(logging.INFO, "lms_tiers.server"):
        assert reload(server, first, lambda: settings(device=device(upper, 999))) is first
    assert in_force(server) == [64, 32]
    (record,) = [r for r in caplog.records if "not reloaded" in r.getMessage()]
    assert "999" in record.fault or str(999 << 20) in record.fault  # type: ignore[attr-defined]
    assert record.in_force == "cpu 64 MiB, pinned 32 MiB"  # type: ignore[attr-defined]


def test_a_capacity_that_does_not_fit_the_machine_is_told_and_refused_where_that_is_strict(
    two: tuple[Server, Callable[..., ServerSettings]], caplog: pytest.LogCaptureFixture
) -> None:
    server, settings = two
    small = Machine(Path("/nowhere"), ram=lambda: 128 << 20, free=lambda path: 1 << 40)
    strict = settings(device=device(64, 32), strict=True)
    with caplog.at_level(logging.INFO, "lms_tiers.server"):
        assert reload(server, strict, lambda: settings(device=device(512, 32), strict=True), small) is strict
        assert in_force(server) == [64, 32]
        (refused,) = [r.fault for r in caplog.records if "not reloaded" in r.getMessage()]  # type: ignore[attr-defined]
        lax = settings(device=device(512, 32))
        assert reload(server, settings(device=device(64, 32)), lambda: lax, small) is lax
    assert in_force(server) == [512, 32]
    (warned,) = [r.getMessage() for r in caplog.records if "does not fit" in r.getMessage()]
    for told in (refused, warned):
        assert "548 MiB" in told
        assert "128 MiB" in told


def test_what_is_taken_over_is_said_and_what_needs_a_restart_keeps_all_from_being(
    two: tuple[Server, Callable[..., ServerSettings]], caplog: pytest.LogCaptureFixture
) -> None:
    server, settings = two
    with caplog.at_level(logging.INFO, "lms_tiers.server"):
        now = reload(server, server.settings, lambda: settings(device=device(16, 8)))
        assert in_force(server) == [16, 8]
        assert reload(server, now, lambda: settings(device=device(32, 8), threads=5, port=7)) is now
        assert in_force(server) == [16, 8]
        reload(server, now, lambda: settings(device=device(64, 32)))
    assert in_force(server) == [64, 32]
    said = [(r.getMessage(), r.in_force) for r in caplog.records if hasattr(r, "in_force")]
    assert said == [
        ("reloaded", "cpu 16 MiB, pinned 8 MiB"),
        ("not reloaded: all is as it was", "cpu 16 MiB, pinned 8 MiB"),
        ("reloaded", "cpu 64 MiB, pinned 32 MiB"),
    ]
    assert any("port, threads changed" in getattr(r, "fault", "") for r in caplog.records)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("store?stall=9s > cpu?capacity=64MiB > pinned?pin=off&capacity=32MiB", "options of the store are others"),
        ("cpu?capacity=64MiB&promote=never > pinned?pin=off&capacity=32MiB", "tiers are others, or their options"),
    ],
)
def test_other_options_need_a_restart(
    two: tuple[Server, Callable[..., ServerSettings]], caplog: pytest.LogCaptureFixture, other: str, says: str
) -> None:
    server, settings = two
    with caplog.at_level(logging.INFO, "lms_tiers.server"):
        assert reload(server, server.settings, lambda: settings(device=other)) is server.settings
    assert any(says in getattr(r, "fault", "") for r in caplog.records)


def test_tiers_that_were_resized_go_back_where_a_later_one_fails(
    two: tuple[Server, Callable[..., ServerSettings]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, settings = two
    resize = TieredStore.resize

    def late(store: TieredStore, tier: str, capacity: int) -> None:
        resize(store, tier, capacity)
        if (tier, capacity) == ("pinned", 16 << 20):
            raise DeadlineExceededError("resize", 30)

    monkeypatch.setattr(TieredStore, "resize", late)
    reload(server, server.settings, lambda: settings(device=device(32, 16)))
    assert in_force(server) == [64, 32]


@pytest.mark.parametrize("error", [ConfigError("no such file"), RuntimeError("a bug")])
def test_settings_that_cannot_be_read_change_nothing(serve: Serve, error: Exception) -> None:
    server = serve()

    def read() -> ServerSettings:
        raise error

    assert reload(server, server.settings, read) is server.settings
    assert healthy(server)


def shown(server: Server) -> str:
    """The common name of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=str(PEM / "ca.pem"))
    context.check_hostname = False
    with socket.create_connection(("127.0.0.1", server.port), 10) as sock, context.wrap_socket(sock) as tls:
        certificate: Any = tls.getpeercert()
        return str(dict(part[0] for part in certificate["subject"])["commonName"])


def test_a_certificate_rotated_under_its_name_is_shown_to_new_connections(serve: Serve, tmp_path: Path) -> None:
    cert, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    shutil.copy(PEM / "server.pem", cert)
    shutil.copy(PEM / "server.key", key)
    server = serve(tls_cert=str(cert), tls_key=str(key))
    before = shown(server)
    context = ssl.create_default_context(cafile=str(PEM / "ca.pem"))
    with Peer(server, tls=context) as open_before:
        shutil.copy(PEM / "client.pem", cert)
        reload(server, server.settings, lambda: server.settings)
        assert shown(server) == before, "the key is not the certificate's as yet"
        shutil.copy(PEM / "client.key", key)
        reload(server, server.settings, lambda: server.settings)
        assert shown(server) != before
        open_before.put("k", b"value")
        assert open_before.get("k") == b"value"
