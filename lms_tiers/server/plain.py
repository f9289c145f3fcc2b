"""LMCache's commands, answered from one backend exactly as its clients expect."""

from __future__ import annotations

import logging
import time

from lms_tiers.errors import BackendClosedError, InvalidChunkError, LmsTiersError, ProtocolError
from lms_tiers.messages import ChunkMeta, ClientCommand, OpaqueKey, ServerReturnCode
from lms_tiers.server.session import Session, Steps
from lms_tiers.sizes import format_size
from lms_tiers.wire.extension import MAX_KEY_BYTES
from lms_tiers.wire.plain import (
    MAX_LENGTH,
    Request,
    decode_request,
    encode_greeting_reply,
    encode_list_reply,
    encode_reply,
)

_log = logging.getLogger(__name__)


def answer(session: Session, header: bytearray) -> Steps | None:
    """Serve one request, or return the steps that are left; raises `ProtocolError` where the connection cannot go on.

    A GET whose peer takes the chunk at once, an EXIST and a HEALTH are over when this returns: a generator and what
    it costs are for those who wait.
    """
    request = decode_request(header)
    if request.fault:
        session.counters.add("bad_fields")
        _log.info("a request that makes no sense", extra={"peer": session.peer, "fault": request.fault})
    command = request.command
    if command is ClientCommand.GET:
        return _get(session, request.key)
    if command is ClientCommand.PUT:
        return _put(session, request)
    if command is ClientCommand.EXIST:
        return _exist(session, request.key)
    if command is ClientCommand.LIST:
        return _list(session)
    if request.greeting:
        takes = session.backend.capabilities
        longest = min(session.settings.max_chunk, takes.max_value_bytes or MAX_LENGTH)
        return session.send(encode_greeting_reply(longest, min(takes.max_key_bytes or MAX_KEY_BYTES, MAX_KEY_BYTES)))
    return session.send(encode_reply(ServerReturnCode.SUCCESS))


def check_length(session: Session, length: int) -> None:
    """Raise `ProtocolError` for a chunk above `max_chunk`."""
    if length > session.settings.max_chunk:
        limit = format_size(session.settings.max_chunk)
        raise ProtocolError(session.peer, f"a PUT of {format_size(length)}; at most {limit} are taken.")


def _put(session: Session, request: Request) -> Steps:
    started = time.perf_counter()
    check_length(session, request.length)
    if request.key is None or request.meta is None:
        session.stream.acknowledge()
        yield from session.skip(request.length)
        session.stream.acknowledge()
        return
    try:
        with session.budget.share(request.length, session) as share:
            if not share.taken:
                yield from session.admit(request.length)
            # Never answered: acknowledge at once, or the client's Nagle and our delayed ACK wait for each other.
            session.stream.acknowledge()
            body, got = session.receive_some(request.length)
            if got < request.length:
                yield from session.receive_rest(body, got)
            session.stream.acknowledge()
            store(session, request.key, request.meta, body)
    except LmsTiersError as error:
        refused(session, request.key, error)
    session.counters.request("put", time.perf_counter() - started, request.length, 0)


def store(session: Session, key: str, meta: ChunkMeta, body: bytearray) -> None:
    """Hand a received chunk to the backend; raises only errors of the taxonomy."""
    try:
        session.backend.put(meta.message(OpaqueKey(key)), body)
    except LmsTiersError:
        raise
    except Exception as error:
        _log.exception("the storage failed in put", extra={"peer": session.peer, "key": key})
        raise InvalidChunkError(key, f"the storage failed: {type(error).__name__}.") from error


def refused(session: Session, key: str, error: LmsTiersError) -> None:
    """Count and log a chunk that was not stored; a closed storage ends the connection."""
    if isinstance(error, BackendClosedError):
        raise error
    session.counters.add("puts_refused")
    _log.warning("a chunk was not stored", extra={"peer": session.peer, "key": key, "fault": str(error)})


def _get(session: Session, key: str | None) -> Steps | None:
    started = time.perf_counter()
    sent = 0
    rest: list[memoryview] | None = None
    found = False
    try:
        if not session.lends:
            if key is not None and (obj := session.backend.get(OpaqueKey(key))) is not None:
                head = encode_reply(ServerReturnCode.SUCCESS, ChunkMeta.of_obj(key, obj))
                found = True
                sent = obj.length
                rest = session.send_borrowed([head, obj.data] if sent else [head], lasting=True)
        elif key is not None:
            with session.backend.view(OpaqueKey(key)) as view:
                if view is not None:
                    head = encode_reply(ServerReturnCode.SUCCESS, view.meta)
                    found = True
                    sent = view.meta.length
                    rest = session.send_borrowed([head, *view.buffers])
    except BackendClosedError:
        raise
    except Exception as error:
        # Before the header has left, any trouble is a miss; after it the client can only be told by closing.
        if found:
            raise
        trouble(session, "get", key, error)
    if not found:
        rest = session.send_borrowed([encode_reply(ServerReturnCode.FAIL)])
    if rest is not None:
        return finish(session, "get", started, rest, sent, "hits" if found else "misses")
    session.counters.request("get", time.perf_counter() - started, 0, sent, "hits" if found else "misses")
    return None


def finish(
    session: Session, command: str, started: float, rest: list[memoryview], sent: int, event: str | None
) -> Steps:
    """Send what is left of an answer, then count its request, and an event with it."""
    yield from session.send_rest(rest)
    session.counters.request(command, time.perf_counter() - started, 0, sent, event)


def trouble(session: Session, command: str, key: str | None, error: Exception) -> None:
    """Count and log a request that the backend could not serve; it is answered as a miss."""
    expected = isinstance(error, LmsTiersError)
    session.counters.add("bad_fields" if isinstance(error, ValueError) else "storage_failures")
    _log.log(
        logging.INFO if expected else logging.ERROR, "the storage cannot answer",
        extra={"peer": session.peer, "command": command, "key": key, "fault": str(error)},
        exc_info=None if expected else error,
    )  # fmt: skip


def _exist(session: Session, key: str | None) -> Steps | None:
    started = time.perf_counter()
    held = False
    if key is not None:
        try:
            held = session.backend.contains(OpaqueKey(key))
        except BackendClosedError:
            raise
        except Exception as error:
            trouble(session, "exist", key, error)
    rest = session.send_borrowed([encode_reply(ServerReturnCode.SUCCESS if held else ServerReturnCode.FAIL)])
    if rest is not None:
        return finish(session, "exist", started, rest, 0, None)
    session.counters.request("exist", time.perf_counter() - started, 0, 0)
    return None


def _list(session: Session) -> Steps | None:
    started = time.perf_counter()
    texts = (key.to_string() for key in session.backend.list_keys())
    # A key with a line break in it cannot stand in a list of lines.
    body = "\n".join(text for text in texts if "\n" not in text).encode()
    if len(body) > MAX_LENGTH:
        return session.send(encode_reply(ServerReturnCode.FAIL))
    rest = session.send_borrowed([encode_list_reply(len(body)), body])
    if rest is not None:
        return finish(session, "list", started, rest, len(body), None)
    session.counters.request("list", time.perf_counter() - started, 0, len(body))
    return None
