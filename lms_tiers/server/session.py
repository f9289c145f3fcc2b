"""One connection as a generator: straight-line code that yields where it would have to wait for its peer.

A thread runs it while the peer keeps up; when it yields, the reactor parks it and the thread serves others. So a slow
or silent peer costs a socket and at most its share of the receive budget, never a thread.
"""

from __future__ import annotations

import enum
import errno
import logging
import math
import os
import ssl
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeAlias

import xxhash

from lms_tiers.errors import BackendClosedError, ProtocolError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.server.budget import ReceiveBudget
from lms_tiers.server.checksums import Checksums
from lms_tiers.server.counters import Counters
from lms_tiers.server.settings import ServerSettings
from lms_tiers.server.stream import Buffer, Stream
from lms_tiers.wire.buffers import drop_sent, receive_buffer
from lms_tiers.wire.plain import CLIENT_HEADER

_log = logging.getLogger(__name__)

#: Bytes a reader must take in one linger time to keep a borrowed chunk; a slower one gets a copy.
_FAST_READER: Final = 256 * 1024
_DRAIN_BUFFER: Final = 65536
#: Bytes that are received at a time where they are checked: few enough to be in the processor's cache still.
_PIECE: Final = 256 * 1024
#: Bytes of which a checksum takes less time than giving the interpreter's lock away and getting it back.
_PART: Final = 64 * 1024
#: A read below this, with more to come, makes a peer a slow one; a TLS record brings up to this much.
_TRICKLE: Final = 16384


class Wait(enum.Enum):
    """What a session waits for."""

    READ = enum.auto()
    WRITE = enum.auto()
    BUDGET = enum.auto()


Steps = Generator[Wait, None, None]
Answer: TypeAlias = "Callable[[Session, bytearray], Steps | None]"


class PeerGone(Exception):
    """The peer closed in the middle of a frame."""


class Session:
    """The state of one connection.

    Parameters
    ----------
    stream : Stream
    backend : LMSBackendInterface
    settings : ServerSettings
    budget : ReceiveBudget
    counters : Counters
    peer : str
    spare : callable
        Whether a thread is free to wait for this peer a moment.
    wake : callable
        Tells the reactor that the session, parked for the budget, can go on.
    answer : callable
        Serves a request, given its header: what is left to do, or None; raises `ProtocolError` where it cannot go on.
    allocate : callable
        Makes the buffer a chunk is received into.
    checksums : Checksums, optional
        Those of the backend's chunks, for all sessions.
    """

    def __init__(
        self, stream: Stream, backend: LMSBackendInterface, settings: ServerSettings, budget: ReceiveBudget,
        counters: Counters, peer: str, spare: Callable[[], bool], wake: Callable[[Session], None],
        answer: Answer, allocate: Callable[[int], bytearray] = receive_buffer, checksums: Checksums | None = None,
    ) -> None:  # fmt: skip
        self.stream: Final = stream
        self.backend: Final = backend
        self.lends: Final = backend.lends
        self.files: Final = backend.files and stream.sends_files
        self.settings: Final = settings
        self.budget: Final = budget
        self.counters: Final = counters
        self.peer: Final = peer
        self.spare: Final = spare
        self._wake: Final = wake
        self._answer: Final = answer
        self.allocate: Final = allocate
        self.checksums: Final = checksums or Checksums()
        self.granted = False
        self.idle = True
        self.draining = False
        self.hung_up = False
        # Who is to show a certificate must do so soon; who may stay silent may do so from the start.
        first = settings.header_timeout if settings.tls_cert else settings.idle_timeout
        self.deadline = math.inf if first is None else time.monotonic() + first
        self.failed_batch = 0
        self._transfer_end = math.inf
        self._unsent = 0
        self.steps: Final = self._run()

    def wake(self) -> None:
        """The budget granted what this session waits for."""
        self._wake(self)

    # -- the life of a connection --------------------------------------------------------------------------------

    def _run(self) -> Steps:
        try:
            yield from self._serve()
        except ProtocolError as error:
            self.counters.add("protocol_errors")
            _log.warning("the peer broke the protocol", extra={"peer": self.peer, "fault": error.reason})
        except PeerGone:
            self.counters.add("truncated")
            _log.info("peer closed within a frame", extra={"peer": self.peer})
        except ssl.SSLError as error:
            self.counters.add("tls_failures")
            _log.warning("TLS failed", extra={"peer": self.peer, "fault": error.reason})
        except OSError as error:
            self.counters.add("disconnects")
            _log.debug("connection lost", extra={"peer": self.peer, "fault": str(error)})
        except BackendClosedError:
            _log.info("closed a connection: the storage is closed", extra={"peer": self.peer})
        except MemoryError:
            self.counters.add("out_of_memory")
            _log.error("closed a connection: out of memory", extra={"peer": self.peer})
        except Exception:
            self.counters.add("internal_errors")
            _log.exception("closed a connection: an error in the storage or the server", extra={"peer": self.peer})
        finally:
            self._let_go()

    def _serve(self) -> Steps:
        yield from self._handshake()
        self.deadline = self._idle_deadline()
        header = bytearray(CLIENT_HEADER.size)
        with memoryview(header) as view:
            while True:
                got = self._first_bytes(view)
                while got is None:
                    if self.draining:
                        return
                    yield Wait.READ
                    got = self._first_bytes(view)
                if got == 0:
                    return
                self.idle = False
                if got < len(view):
                    self.deadline = self._transfer_end = time.monotonic() + self.settings.header_timeout
                    yield from self._fill(view[got:])
                # What can be done at once is, without a generator: most requests end here.
                rest = self._answer(self, header)
                if rest is not None:
                    yield from rest
                self.idle = True
                self.deadline = self._idle_deadline()

    def _handshake(self) -> Steps:
        while True:
            try:
                self.stream.handshake()
                return
            except BlockingIOError:
                yield Wait.READ

    def _idle_deadline(self) -> float:
        idle_timeout = self.settings.idle_timeout
        return math.inf if idle_timeout is None else time.monotonic() + idle_timeout

    def _first_bytes(self, view: memoryview) -> int | None:
        """Bytes of the next header; 0 where the peer has closed between two frames, None where it is silent."""
        try:
            return self.stream.recv_into(view, self.spare() and not self.draining)
        except BlockingIOError:
            return None

    # -- moving bytes --------------------------------------------------------------------------------------------

    def start_transfer(self, nbytes: int) -> None:
        """Set when a transfer of `nbytes` must be over."""
        self._transfer_end = time.monotonic() + self.settings.stall_timeout + nbytes / self.settings.min_rate

    def _park(self, wait: Wait) -> Steps:
        self.deadline = min(self._transfer_end, time.monotonic() + self.settings.stall_timeout)
        yield wait

    def _fill(self, view: memoryview, patient: bool = True, digest: xxhash.xxh3_64 | None = None) -> Steps:
        got = 0
        while got < len(view):
            rest = view[got:] if digest is None else view[got : got + _PIECE]
            try:
                now = self.stream.recv_into(rest, patient and self.spare())
            except BlockingIOError:
                patient = False
                self.stream.low_water(len(view) - got)
                yield from self._park(Wait.READ)
                continue
            if now == 0:
                raise PeerGone
            if digest is not None:
                _feed(digest, rest[:now])
            got += now
            # A few bytes in a whole linger time: waiting for more of them would give a trickling peer this thread.
            patient = patient and now >= _TRICKLE
        self.stream.low_water(1)

    def receive_some(self, nbytes: int, digest: xxhash.xxh3_64 | None = None) -> tuple[bytearray, int]:
        """A buffer for the next `nbytes` bytes, for which the caller has taken a share of the budget.

        With a `digest` of what arrives it is fed piece by piece, while the bytes are still in the processor's cache.

        Returns
        -------
        bytearray, int
            And how many bytes are in it already: all when the peer keeps up, else `receive_rest` brings the others.
        """
        body = self.allocate(nbytes)
        got = 0
        with memoryview(body) as view:
            while got < nbytes:
                piece = view if digest is None else view[got : got + _PIECE]
                try:
                    now = self.stream.recv_into(piece, self.spare())
                except BlockingIOError:
                    break
                if now == 0:
                    raise PeerGone
                got += now
                if digest is not None:
                    _feed(digest, piece[:now])
                if now < len(piece):
                    break
        if got < nbytes:
            self.start_transfer(nbytes)
        return body, got

    def receive_rest(self, body: bytearray, got: int, digest: xxhash.xxh3_64 | None = None) -> Steps:
        """Fill `body` from byte `got` on."""
        with memoryview(body) as view:
            yield from self._fill(view[got:], patient=got >= _TRICKLE, digest=digest)

    def receive(self, nbytes: int) -> Generator[Wait, None, bytearray]:
        """The next `nbytes` bytes, for which the caller has taken a share of the budget."""
        body, got = self.receive_some(nbytes)
        if got < nbytes:
            yield from self.receive_rest(body, got)
        return body

    def admit(self, nbytes: int) -> Steps:
        """Wait for a share of the receive budget that could not be taken at once; the share's block gives it back."""
        self.counters.add("budget_waits")
        if self.granted:
            return
        self.deadline = time.monotonic() + self.settings.stall_timeout + nbytes / self.settings.min_rate
        while not self.granted:
            yield Wait.BUDGET
            if not self.granted and self.hung_up:
                raise PeerGone

    def skip(self, nbytes: int) -> Steps:
        """Read and forget the body of a chunk that cannot be stored."""
        self.start_transfer(nbytes)
        with memoryview(bytearray(min(nbytes, _DRAIN_BUFFER))) as scratch:
            while nbytes > 0:
                part = min(nbytes, len(scratch))
                yield from self._fill(scratch[:part])
                nbytes -= part

    def send_borrowed(self, buffers: Sequence[Buffer], *, lasting: bool = False) -> list[memoryview] | None:
        """Send as long as the peer takes it quickly; what is left is copied, so that the chunk can be given back.

        Bytes that are `lasting` stay as they are for as long as they are referred to, and are not copied.

        Returns
        -------
        list of memoryview or None
            The rest, for `send_rest`; its share of the budget is released with it, or with the session. None when all
            is sent.

        Raises
        ------
        PeerGone
            The budget has no room for the rest.
        """
        try:
            sent = self.stream.send(buffers, self.spare())
        except BlockingIOError:
            sent = 0
        left = -sent
        for buffer in buffers:
            left += buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
        if not left:
            return None
        pending = [memoryview(b).cast("B") for b in buffers if len(b)]
        try:
            while True:
                drop_sent(pending, sent)
                if not pending:
                    return None
                if sent < _FAST_READER:
                    rest = sum(map(len, pending))
                    if not self.budget.try_acquire(rest):
                        self.counters.add("slow_readers_cut")
                        raise PeerGone
                    self._unsent = rest
                    return pending.copy() if lasting else [memoryview(bytearray().join(pending))]
                try:
                    sent = self.stream.send(pending, self.spare())
                except BlockingIOError:
                    sent = 0
        finally:
            # An error's traceback would keep these alive while the backend takes its buffers back.
            pending.clear()

    def send_file(self, head: bytes, fd: int, offset: int, nbytes: int) -> list[memoryview] | None:
        """As `send_borrowed`, for a head and a chunk that lies in a file: what the peer leaves is read from there.

        Raises
        ------
        PeerGone
            The budget has no room for the rest.
        OSError
            The file ends before the chunk does.
        """
        sent = body = 0
        while sent < len(head) + nbytes:
            try:
                now = self.stream.send_file(head[sent:], fd, offset + body, nbytes - body)
            except BlockingIOError:
                now = 0
            sent += now
            body = max(0, sent - len(head))
            if now < _FAST_READER:
                break
        left = len(head) + nbytes - sent
        if not left:
            return None
        if not self.budget.try_acquire(left):
            self.counters.add("slow_readers_cut")
            raise PeerGone
        self._unsent = left
        rest = bytearray(nbytes - body)
        if os.preadv(fd, [rest], offset + body) != len(rest):
            raise OSError(errno.EIO, "a file ends before the chunk that lies there")
        return [memoryview(part) for part in (head[sent:], rest) if part]

    def send_rest(self, rest: list[memoryview]) -> Steps:
        """Send what `send_borrowed` left, at the peer's pace."""
        self.counters.add("slow_readers")
        self.start_transfer(sum(map(len, rest)))
        try:
            while rest:
                try:
                    drop_sent(rest, self.stream.send(rest, False))
                except BlockingIOError:
                    yield from self._park(Wait.WRITE)
        finally:
            rest.clear()
            self._let_go()

    def _let_go(self) -> None:
        """Give back the share of what was left to send; nothing where that was done."""
        unsent, self._unsent = self._unsent, 0
        if unsent:
            self.budget.release(unsent)

    def send(self, *buffers: Buffer) -> Steps | None:
        """Send an answer; what the peer does not take at once is left to the steps returned."""
        rest = self.send_borrowed(buffers)
        return None if rest is None else self.send_rest(rest)

    def answer(self, *buffers: Buffer) -> Steps:
        """Send an answer, all of it."""
        rest = self.send_borrowed(buffers)
        if rest is not None:
            yield from self.send_rest(rest)


def _feed(digest: xxhash.xxh3_64, view: memoryview) -> None:
    """Go on with the bytes of `view`, in parts so small that the interpreter's lock is kept meanwhile."""
    for at in range(0, len(view), _PART):
        digest.update(view[at : at + _PART])
