"""What a session or a connection was lent comes back, whatever ends it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from lms_tiers import ChunkView, CreateStorageBackend, LMSLocalBackend
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.messages import CacheEngineKey
from lms_tiers.namespace import Namespace
from lms_tiers.namespaced import Namespaced
from lms_tiers.server.budget import ReceiveBudget
from lms_tiers.server.counters import Counters
from lms_tiers.server.session import Session
from lms_tiers.server.settings import make_settings
from lms_tiers.wire import extension
from lms_tiers.wire.extension import XCommand
from tests.server.conftest import Serve
from tests.server.peer import GET, Peer, header, healthy, wait_until
from tests.server.test_budget import Waiter

MIB = 2**20


class Sick(LMSLocalBackend):
    """Fails when it takes a lent chunk back."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        with super().view(key) as view:
            yield view
        if view is not None and view.meta.length > MIB:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("a bug"), StorageUnavailableError("disk", "gone")], ids=["bug", "disk"])
@pytest.mark.parametrize("extended", [False, True], ids=["plain", "extended"])
def test_a_storage_that_fails_within_a_slow_answer_costs_no_share_of_the_budget(
    serve: Serve, error: Exception, extended: bool
) -> None:
    server = serve(Sick(error), max_chunk="16MiB", receive_budget="64MiB")
    with Peer(server) as peer:
        peer.put("big", bytes(16 * MIB))
        assert peer.exists("big")
    with Peer(server, receive_buffer=4096) as reader:
        reader.send(extension.encode_xrequest(XCommand.GET, "big") if extended else header(GET, "big"))
        wait_until(lambda: server.counters["internal_errors"] + server.counters["disconnects"] == 1)
        wait_until(lambda: server.connections == 0)
    assert server.budget.peak > 8 * MIB
    assert server.budget.used == 0
    assert healthy(server)


def test_a_share_comes_back_whatever_ends_its_block() -> None:
    budget = ReceiveBudget(10)
    with suppress(MemoryError), budget.share(8, Waiter()) as share:
        assert share.taken
        with suppress(KeyError), budget.share(5, Waiter()) as queued:
            assert not queued.taken
            raise KeyError
        assert budget.waiting == 0
        raise MemoryError
    assert budget.used == 0


def test_a_share_granted_to_one_that_has_left_comes_back() -> None:
    budget = ReceiveBudget(10)
    assert budget.acquire(8, Waiter())
    waiter = Waiter()
    with suppress(KeyError), budget.share(5, waiter):
        budget.release(8)
        assert waiter.granted
        assert budget.used == 5
        raise KeyError
    assert budget.used == 0


class Slow:
    """A stream whose peer takes one byte, then none."""

    def __init__(self) -> None:
        self.taken = 0

    def send(self, buffers: Any, patient: bool) -> int:
        if self.taken:
            raise BlockingIOError
        self.taken = 1
        return 1


@pytest.mark.parametrize("lasting", [False, True])
def test_what_a_slow_reader_has_not_taken_is_copied_only_where_the_storage_wants_it_back(lasting: bool) -> None:
    budget, stream = ReceiveBudget(100), Slow()
    fake: Any = object()
    with LMSLocalBackend() as backend:
        session = Session(
            cast(Any, stream), backend, make_settings(None, {}), budget, Counters(), "peer", lambda: True, fake, fake
        )
    chunk = bytearray(b"chunk")
    rest = session.send_borrowed([b"head", memoryview(chunk).toreadonly()], lasting=lasting)
    assert rest is not None
    assert b"".join(rest) == b"eadchunk"
    assert (rest[-1].obj is chunk) is lasting
    assert budget.used == len(b"eadchunk")  # memory is held either way


def test_a_backend_lends_where_its_views_spare_a_copy(tmp_path: Path) -> None:
    devices = {
        "cpu": False, "store > cpu": False, f"lmdb:{tmp_path}/a?capacity=4MiB": False, "pinned?capacity=1MiB": True,
        f"cpu?capacity=1MiB > lmdb:{tmp_path}/b?capacity=4MiB": False,
        f"pinned?capacity=1MiB > lmdb:{tmp_path}/c?capacity=4MiB": True,
    }  # fmt: skip
    for device, lends in devices.items():
        with CreateStorageBackend(device) as backend, Namespaced(backend, Namespace(model="m")) as named:
            assert backend.lends is named.lends is lends, device


class Full:
    """An epoll set that takes no descriptor the next time."""

    def __init__(self, epoll: Any) -> None:
        self.epoll = epoll
        self.refused = 0

    def register(self, *arguments: Any) -> None:
        if not self.refused:
            self.refused = 1
            raise OSError(errno.ENOSPC, "no more watches")
        self.epoll.register(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.epoll, name)


def test_a_connection_that_cannot_be_watched_is_closed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    monkeypatch.setattr(server._reactor, "_epoll", Full(server._reactor._epoll))
    with Peer(server) as refused:
        assert refused.closed()
    assert server.connections == 0
    assert healthy(server)
