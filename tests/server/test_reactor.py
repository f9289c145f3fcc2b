"""Threads of the reactor that are taken off the core between two steps: no session is lost, no thread ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lms_tiers import LMSLocalBackend
from tests.server.conftest import Serve
from tests.server.peer import PUT, Peer, header, wait_until
from tests.stepping import until_it_waits

MIB = 1 << 20


class HeldUp:
    """An epoll set that holds up one thread of the server where it arms a parked session."""

    def __init__(self, reactor: Any, which: Callable[[int], bool]) -> None:
        self._real = reactor._epoll
        self._reactor = reactor
        self._which = which
        self.held, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def modify(self, descriptor: int, events: int) -> None:
        mine = threading.current_thread().name.startswith("lm-server-") and descriptor in self._reactor._parked
        if mine and not self.held.is_set() and self._which(events):
            self.held.set()
            assert self.go_on.wait(60)
        self._real.modify(descriptor, events)


def callers(reactor: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that have come to call a method of the reactor."""
    threads: list[threading.Thread] = []
    method = getattr(reactor, name)

    def called(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return method(*args)

    monkeypatch.setattr(reactor, name, called)
    return threads


def test_a_session_is_never_taken_between_parking_and_arming(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    reactor = server._reactor
    epoll = HeldUp(reactor, lambda events: True)
    monkeypatch.setattr(reactor, "_epoll", epoll)
    takers = callers(reactor, "_take", monkeypatch)
    with Peer(server) as peer:
        wait_until(lambda: bool(reactor._sessions))
        peer.send(b"\0")
        assert epoll.held.wait(60)
        for session in reactor._sessions.copy().values():
            session.deadline = 0.0
        sweep = reactor._threads[-1]
        wait_until(lambda: sweep in takers)
        until_it_waits(sweep)
        taken = not reactor._sessions
        epoll.go_on.set()
        wait_until(lambda: server.counters["timeouts"] == 1)
    assert not taken
    with Peer(server) as peer:
        assert not peer.exists("nothing")
    assert all(thread.is_alive() for thread in reactor._threads)


def test_a_grant_beside_the_arming_wakes_the_session(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LMSLocalBackend()
    server = serve(backend, receive_budget="1MiB", stall_timeout=30)
    reactor = server._reactor
    epoll = HeldUp(reactor, lambda events: events == 0)  # one that waits for the budget
    monkeypatch.setattr(reactor, "_epoll", epoll)
    wakers, takers = (callers(reactor, name, monkeypatch) for name in ("wake", "_take"))
    body = bytes(MIB)
    with Peer(server) as first, Peer(server) as second:
        first.send(header(PUT, "first", MIB, 1, 6, (1, 1, 1, MIB)) + body[:1000])
        wait_until(lambda: server.budget.used == MIB)
        second.send(header(PUT, "second", MIB, 1, 6, (1, 1, 1, MIB)) + body[:1000])
        assert epoll.held.wait(60)
        before = len(takers)
        first.send(body[1000:])
        # Who has the first session grants; where nobody has it any more, it is to be taken first, which takes as long.
        wait_until(lambda: bool(wakers) or len(takers) > before)
        until_it_waits([*wakers, *takers[before:]][0])
        epoll.go_on.set()
        second.send(body[1000:])
        assert second.exists("second")
        assert first.exists("first")
