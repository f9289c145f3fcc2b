"""A connection that does not come about leaves no socket behind."""

from __future__ import annotations

import contextlib
import socket

import pytest

from lms_tiers.client.address import Address
from lms_tiers.client.connection import Connection


def test_a_server_that_hangs_up_before_it_is_asked_for_its_address_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(socket.socket()) as gone:  # as a socket is whose peer is gone: connected to nobody
        monkeypatch.setattr(Address, "connect", lambda *_: gone)
        with pytest.raises(OSError, match="not connected"):
            Connection(Address("localhost", 1), 60.0, 60.0)
        assert gone.fileno() == -1
