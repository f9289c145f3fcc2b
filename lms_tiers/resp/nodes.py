"""The nodes of the engine: which has which slot, connections to each, and requests that are asked of all at one time.

A node that says nothing for `timeout` seconds has failed the call. The others of the same call had that time as well:
from then on they get a tenth of it. Nothing here knows chunks.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import weakref
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from typing import Any, Final

from lms_tiers.client.address import Address
from lms_tiers.client.connection import Buffer
from lms_tiers.errors import BackendClosedError, ProtocolError, StorageUnavailableError
from lms_tiers.resp.link import Link, Place, Refusal, command, shown

SLOTS: Final = 16384
#: Requests on their way to a node at one time: enough to hide the round trip, few enough for its memory. And such that
#: are answered in a word.
WINDOW: Final = 32
LIGHT: Final = 1024
#: How often a request is asked: at first, where it was told to go, and again while slots move or a replica takes over.
_TURNS: Final = 4
#: Seconds for which a node that failed is left alone, doubling, and seconds between two looks at the slots.
_FIRST_REST, _LAST_REST, _LOOK = 0.05, 2.0, 0.1
_LOST: Final = (OSError, ProtocolError, ValueError)


def slot_of(key: bytes) -> int:
    """The hash slot of a key, as the Cluster specification has it: a tag in braces stands for the whole."""
    begin = key.find(b"{") + 1
    end = key.find(b"}", begin) if begin else -1
    return crc_hqx(key[begin:end] if end > begin else key, 0) % SLOTS


class Request:
    """What is asked of the node that has `key`, or of the one at `at`, and what became of it.

    Attributes
    ----------
    answer : object
        What `read` made of the reply.
    fault : Exception or None
        Why there is no answer; `sent` tells whether the node may have got the request all the same.
    """

    __slots__ = ("answer", "ask", "at", "fault", "frame", "key", "read", "sent")

    def __init__(
        self, key: bytes, frame: list[Buffer], read: Callable[[Link], Any] = Link.reply, at: Address | None = None
    ) -> None:
        self.key, self.frame, self.read, self.at = key, frame, read, at
        self.ask: Address | None = None
        self.renew()

    def renew(self) -> None:
        """Forget what became of it."""
        self.answer: Any = None
        self.fault: Exception | None = None
        self.sent = False


class _Node:
    """Idle connections to one node, and until when nobody waits for it again after it failed."""

    def __init__(self, address: Address) -> None:
        self.address: Final = address
        self.idle: Final[list[Link]] = []
        self.rest, self.until = 0.0, float("-inf")

    def failed(self) -> None:
        self.rest = min(_LAST_REST, self.rest * 2 or _FIRST_REST)
        self.until = time.monotonic() + self.rest


class _Flight:
    """Requests on their way to one node, over one connection."""

    def __init__(self, node: _Node, requests: list[Request], window: int) -> None:
        self.node: Final = node
        self.requests: Final = requests
        self.window: Final = window
        self.link: Link | None = None
        self.sent = self.answered = 0
        self.fault: Exception | None = None

    def send(self) -> None:
        assert self.link is not None
        ready = self.requests[self.sent : self.answered + self.window]
        frames: list[Buffer] = []
        for request in ready:
            request.sent = True  # from here on some of it may arrive
            frames += [*command(b"ASKING"), *request.frame] if request.ask else request.frame
        self.sent += len(ready)
        self.link.send(frames)

    def read(self) -> None:
        assert self.link is not None
        while self.answered < len(self.requests):
            if self.sent - self.answered <= self.window // 2 and self.sent < len(self.requests):
                self.send()
            request = self.requests[self.answered]
            if request.ask:
                self.link.reply()
            request.answer = request.read(self.link)
            self.answered += 1


class Nodes:
    """All nodes of the engine at `place`; usable from many threads.

    Parameters
    ----------
    timeout : float
        Seconds.
    connections : int
        Idle ones kept to each node.

    Raises
    ------
    StorageUnavailableError
        None of the addresses answers, or the engine refuses the user.
    """

    def __init__(self, place: Place, timeout: float, connections: int) -> None:
        self._place: Final = place
        self._timeout: Final = timeout
        self._kept: Final = connections
        self._lock: Final = threading.Lock()
        self._looking: Final = threading.Lock()
        self._nodes: Final[dict[Address, _Node]] = {}
        self._links: Final[weakref.WeakSet[Link]] = weakref.WeakSet()
        self._owners: list[Address | None] = [None] * SLOTS
        self._stale, self._looked = False, float("-inf")
        self.closed = False
        self.connects = self.redirects = self.looks = 0
        try:
            self._look(late=False)
        except BaseException:
            self.close()
            raise

    def primaries(self) -> list[Address]:
        """The nodes that have slots."""
        # Neighbours that are one object are told to be so without a look at them: a hash of each slot took 7 ms.
        return list(dict.fromkeys(owner for owner, _ in itertools.groupby(self._owners) if owner is not None))

    # -- asking ------------------------------------------------------------------------------------------------------

    def run(self, requests: Sequence[Request], *, repeat: bool = False, window: int = WINDOW) -> None:
        """Ask them all at one time, and again where they are told to go.

        Parameters
        ----------
        window : int
            How many are on their way to a node at one time.
        repeat : bool
            Whether one whose connection was lost may be asked again: it reads only.
        """
        for turn in range(_TURNS):
            if self._stale and self._looking.acquire(blocking=False):
                try:
                    if time.monotonic() >= self._looked + _LOOK:
                        with contextlib.suppress(StorageUnavailableError):  # told of by the requests themselves
                            self._look(late=True)
                finally:
                    self._looking.release()
            self._turn(requests, window)
            requests = [request for request in requests if self._again(request, repeat and turn == 0)]
            if not requests:
                return

    def _again(self, request: Request, repeat: bool) -> bool:
        """Whether to ask once more; after the last turn what it answered stands."""
        answer, request.ask = request.answer, None
        if not isinstance(answer, Refusal):
            lost = request.fault is not None and request.sent and not isinstance(request.fault, TimeoutError)
            return lost and repeat
        if answer.code not in ("MOVED", "ASK"):  # a primary that is one no longer: who follows it is known by and by
            self._stale |= answer.code in ("READONLY", "CLUSTERDOWN")
            return answer.code == "READONLY"
        try:
            _, number, to = answer.text.split(" ")
            host, _, port = to.rpartition(":")
            slot, before = int(number), self._owners[int(number)]
            there = Address(host.strip("[]") or (before.host if before is not None else ""), int(port))
        except (ValueError, IndexError):
            return False
        self.redirects += 1
        if answer.code == "ASK":
            request.ask = there
        else:
            self._owners[slot], self._stale = there, True
        return True

    def _turn(self, requests: Sequence[Request], window: int = WINDOW, *, late: bool = False) -> None:
        groups: dict[Address, list[Request]] = {}
        for request in requests:
            request.renew()
            at = request.ask or request.at or self._owners[slot_of(request.key)]
            if at is None:
                request.fault, self._stale = ConnectionError("no node has its slot"), True
            else:
                groups.setdefault(at, []).append(request)
        with self._lock:
            flights = [_Flight(self._nodes.setdefault(at, _Node(at)), group, window) for at, group in groups.items()]
        try:
            for step in (self._begin, self._finish):
                for flight in flights:
                    late |= self._step(flight, step, late)
        finally:
            for flight in flights:
                self._end(flight)

    def _begin(self, flight: _Flight, patience: float) -> None:
        flight.link = self._take(flight.node, patience)
        flight.send()

    def _finish(self, flight: _Flight, patience: float) -> None:
        assert flight.link is not None
        flight.link.patience(patience)
        flight.read()

    def _step(self, flight: _Flight, step: Callable[[_Flight, float], None], late: bool) -> bool:
        """Whether the node used the time up."""
        if flight.fault is not None:
            return False
        try:
            step(flight, self._timeout / 10 if late else self._timeout)
        except _LOST as error:
            flight.fault, self._stale = error, True
        return isinstance(flight.fault, TimeoutError)

    def _end(self, flight: _Flight) -> None:
        link, flight.link = flight.link, None
        if isinstance(flight.fault, TimeoutError):
            flight.node.failed()
        with self._lock:
            if link is not None and flight.answered == len(flight.requests) and not self.closed:
                flight.node.rest = 0.0
                if len(flight.node.idle) < self._kept:
                    flight.node.idle.append(link)
                    link = None
        if link is not None:
            link.close()
        for request in flight.requests[flight.answered :]:
            request.fault = flight.fault

    # -- connections -------------------------------------------------------------------------------------------------

    def _take(self, node: _Node, patience: float) -> Link:
        with self._lock:
            if self.closed:
                raise BackendClosedError("the redis backend")
            if time.monotonic() < node.until:
                raise ConnectionError("it was not reached lately and is tried again soon")
            while node.idle:
                link = node.idle.pop()
                if link.alive:
                    break
                link.close()
            else:
                link = None
        if link is None:
            try:
                link = self._open(node.address, patience)
            except OSError:
                node.failed()
                raise
        link.patience(patience)
        return link

    def _open(self, address: Address, patience: float) -> Link:
        link = Link(address, patience, self._place.tls)
        try:
            with self._lock:
                self._links.add(link)
                self.connects += 1
                if self.closed:
                    raise BackendClosedError("the redis backend")
            return link.greet(self._place)
        except BaseException:
            link.close()
            raise

    def _look(self, *, late: bool) -> None:
        """Learn which node has which slot; a server that is no Cluster has all of them."""
        self._looked = time.monotonic()
        self.looks += 1
        known = dict.fromkeys((*self.primaries(), *self._place.seeds))
        why = "it has no address."
        for address in sorted(known, key=lambda at: self._nodes[at].rest if at in self._nodes else 0.0):
            request = Request(b"", command(b"CLUSTER", b"SLOTS"), at=address)
            self._turn([request], late=late)
            answer = request.answer
            if request.fault is not None:
                why = f"{shown(address)} cannot be reached: {request.fault}."
            elif isinstance(answer, Refusal) and answer.code not in ("ERR", "NOPERM"):
                why = f"{shown(address)} refuses: {answer.text}."
            else:
                self._owners, self._stale = _owners(answer, address), False
                return
        raise StorageUnavailableError(str(self._place), why)

    def close(self) -> None:
        """Close every connection; calls that wait on one end with an error. Idempotent."""
        with self._lock:
            self.closed = True
            for node in self._nodes.values():
                while node.idle:
                    node.idle.pop().close()
            for link in self._links:
                link.abort()


def _owners(answer: Any, asked: Address) -> list[Address | None]:
    """The primary of each slot, out of the answer to CLUSTER SLOTS of the node at `asked`."""
    if isinstance(answer, Refusal):
        return [asked] * SLOTS
    owners: list[Address | None] = [None] * SLOTS
    for first, last, (host, port, *_), *_ in answer:
        name = (host or b"").decode()
        at = Address(asked.host if name in ("", "?") else name, port)
        owners[first : last + 1] = [at] * (last + 1 - first)
    return owners
