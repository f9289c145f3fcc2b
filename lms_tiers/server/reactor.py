"""Threads and epoll: a fixed set of threads waits on one epoll set; whoever is woken runs that session itself.

Each descriptor is armed for one event at a time, so a session belongs to one thread or to the parked set, never to
both: taking it out of `_parked` is what makes a thread (or the sweep of deadlines) its owner.

Whoever walks a dictionary that others change walks a `copy` of it: a list of its items makes tuples, so the garbage
collector may run meanwhile, finalizers with it, and another thread after them.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from lms_tiers.server.counters import Counters
from lms_tiers.server.session import Session, Wait

_log = logging.getLogger(__name__)

_EVENTS: Final = {
    Wait.READ: select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT,
    Wait.WRITE: select.EPOLLOUT | select.EPOLLONESHOT,
    Wait.BUDGET: 0,
}
_NOW: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLONESHOT
_SWEEP_SECONDS: Final = 0.1


class Reactor:
    """Runs sessions.

    Parameters
    ----------
    threads : int
    counters : Counters
    """

    def __init__(self, threads: int, counters: Counters) -> None:
        self._counters: Final = counters
        self._epoll: Final = select.epoll()
        self._stop_event: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._stop_event, select.EPOLLIN)
        self._sessions: Final[dict[int, Session]] = {}
        self._parked: Final[dict[int, Session]] = {}
        self._listeners: Final[dict[int, Callable[[], None]]] = {}
        self._idle: Final[set[int]] = set()
        #: A session is parked and armed in one step: nobody takes it in between.
        self._arming: Final = threading.Lock()
        self._changed: Final = threading.Condition()
        self._stopping = False
        self._threads: Final = [
            threading.Thread(target=self._work, name=f"lm-server-{i}", daemon=True) for i in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._sweep, name="lm-server-sweep", daemon=True))

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def connections(self) -> int:
        """Sessions alive."""
        return len(self._sessions)

    def spare(self) -> bool:
        """Whether a thread is free, so that another may wait for its peer a moment."""
        return bool(self._idle)

    # -- listeners -------------------------------------------------------------------------------------------------

    def listen(self, descriptor: int, accept: Callable[[], None]) -> None:
        """Call `accept`, from one thread at a time, whenever a listening socket has connections to take."""
        self._listeners[descriptor] = accept
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)

    def unlisten(self, descriptor: int) -> None:
        """Forget a listening socket; close it afterwards."""
        if self._listeners.pop(descriptor, None):
            self._epoll.unregister(descriptor)

    def _accept(self, descriptor: int, accept: Callable[[], None]) -> None:
        try:
            accept()
        except (OSError, RuntimeError, MemoryError) as error:
            # Out of descriptors: the sweep arms the listener again a moment later, instead of spinning here.
            self._counters.add("accept_failures")
            _log.warning("cannot accept a connection", extra={"fault": str(error)})
            return
        self._arm_listener(descriptor)

    def _arm_listener(self, descriptor: int) -> None:
        if descriptor in self._listeners:
            try:
                self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
            except OSError:
                _log.debug("a listener was closed meanwhile")

    # -- sessions --------------------------------------------------------------------------------------------------

    def adopt(self, descriptor: int, session: Session) -> None:
        """Take over a new connection; its first bytes will find a thread."""
        with self._arming:
            self._epoll.register(descriptor, _EVENTS[Wait.READ])
            self._sessions[descriptor] = self._parked[descriptor] = session

    def wake(self, descriptor: int) -> None:
        """Let the session go on that is parked, or about to be parked, for the budget."""
        with self._arming:
            try:
                self._epoll.modify(descriptor, _NOW)
            except OSError:
                _log.debug("a session to wake has ended")

    def _take(self, descriptor: int, session: Session | None = None) -> Session | None:
        """Become the owner of the session that is parked, of no other than `session` where given."""
        with self._arming:
            if session is not None and self._parked.get(descriptor) is not session:
                return None
            return self._parked.pop(descriptor, None)

    def _advance(self, descriptor: int, session: Session) -> None:
        try:
            wait = next(session.steps)
        except StopIteration:
            self._end(descriptor, session)
            return
        with self._arming:
            self._parked[descriptor] = session
            # A grant that came before this line found nobody parked: arm for it here.
            granted = wait is Wait.BUDGET and session.granted
            self._epoll.modify(descriptor, _NOW if granted else _EVENTS[wait])

    def _end(self, descriptor: int, session: Session) -> None:
        session.steps.close()
        self._epoll.unregister(descriptor)
        del self._sessions[descriptor]
        session.stream.close()
        self._counters.add("connections_closed")
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        me = threading.get_ident()
        while not self._stopping:
            self._idle.add(me)
            events = self._epoll.poll(-1, 1)
            self._idle.discard(me)
            for descriptor, seen in events:
                accept = self._listeners.get(descriptor)
                if accept is not None:
                    self._accept(descriptor, accept)
                    continue
                session = self._take(descriptor)
                if session is not None:
                    session.hung_up = bool(seen & (select.EPOLLHUP | select.EPOLLERR))
                    self._advance(descriptor, session)

    def _sweep(self) -> None:
        while True:
            with self._changed:
                if self._stopping:  # set under this lock: not between the look and the wait
                    return
                self._changed.wait(_SWEEP_SECONDS)
            now = time.monotonic()
            for descriptor, session in self._parked.copy().items():
                if session.deadline < now and self._take(descriptor, session):
                    self._counters.add("timeouts")
                    _log.info("closed a connection: too slow", extra={"peer": session.peer})
                    self._end(descriptor, session)
            for descriptor in list(self._listeners):
                self._arm_listener(descriptor)

    # -- the end ---------------------------------------------------------------------------------------------------

    def drain(self, timeout: float) -> int:
        """Let every session finish its frame and end; answers how many had not ended after `timeout` seconds."""
        until = time.monotonic() + timeout
        while self._sessions and time.monotonic() < until:
            for descriptor, session in self._sessions.copy().items():
                session.draining = True
                if session.idle and descriptor in self._parked:
                    self.wake(descriptor)
            with self._changed:
                self._changed.wait(min(0.02, max(0.0, until - time.monotonic())))
        return len(self._sessions)

    def stop(self) -> None:
        """End the threads (each finishes the request it is serving) and every session left."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        os.eventfd_write(self._stop_event, 1)  # never read: it wakes every thread that looks
        for thread in self._threads:
            if thread.ident is not None:  # a machine without room for more threads may have started some only
                thread.join()
        for descriptor, session in self._sessions.copy().items():
            self._parked.pop(descriptor, None)
            self._end(descriptor, session)
        self._epoll.close()
        os.close(self._stop_event)
