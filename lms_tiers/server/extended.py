"""The extension's commands, each answered: acknowledged puts, removal, flush, and lists with metadata."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Sequence
from typing import Any, Final

import xxhash

from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    DeadlineExceededError,
    InvalidChunkError,
    InvalidKeyError,
    LmsTiersError,
    OutcomeUnknownError,
    StorageUnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from lms_tiers.messages import ChunkMeta, OpaqueKey, ServerReturnCode
from lms_tiers.server.held import answer_held, answer_pin
from lms_tiers.server.plain import check_length, finish, refused, store, trouble
from lms_tiers.server.session import Session, Steps, Wait
from lms_tiers.wire import extension
from lms_tiers.wire.extension import XCommand, XError, XRequest
from lms_tiers.wire.plain import KEY_BYTES, MAX_LENGTH

_log = logging.getLogger(__name__)

_ERRORS: Final = (
    (InvalidKeyError, XError.INVALID_KEY),
    (InvalidChunkError, XError.INVALID_CHUNK),
    (ValueTooLargeError, XError.TOO_LARGE),
    (CapacityError, XError.CAPACITY),
    (UnsupportedError, XError.UNSUPPORTED),
    (DeadlineExceededError, XError.DEADLINE),
    (OutcomeUnknownError, XError.UNKNOWN),
    (StorageUnavailableError, XError.UNAVAILABLE),
)
_FIELDS: Final = ("reason", "size", "limit", "where", "needed", "free", "operation", "seconds")
_OK: Final = extension.encode_xreply(ServerReturnCode.SUCCESS)
_MISS: Final = extension.encode_xreply(ServerReturnCode.FAIL)
#: What each request is called where it is counted.
_NAMES: Final = {command: f"x{command.name.lower()}" for command in XCommand}


def answer(session: Session, header: bytearray) -> Steps | None:
    """Serve one request, or return the steps that are left; raises `ProtocolError` where the connection cannot go on.

    A GET whose peer takes the chunk at once and an EXIST are over when this returns, as those of LMCache's clients.
    """
    started = time.perf_counter()
    request = extension.decode_xrequest(header)
    command = request.command
    if (command is not XCommand.GET and command is not XCommand.EXIST) or request.key_bytes > KEY_BYTES:
        if command is not XCommand.HELD and command is not XCommand.PIN:
            check_length(session, request.length)
        return _served(session, request, started)
    event: str | None = None
    sent = 0
    try:
        key, _ = extension.decode_xnames(request, b"")
        if command is XCommand.GET:
            sent, event, rest = _get(session, key, unchecked=request.argument == extension.UNCHECKED)
        else:
            rest = session.send_borrowed((_OK if session.backend.contains(OpaqueKey(key)) else _MISS,))
    except LmsTiersError as error:
        rest = session.send_borrowed(_failed(session, command, error))
    if rest is not None:
        return finish(session, _NAMES[command], started, rest, sent, event)
    session.counters.request(_NAMES[command], time.perf_counter() - started, 0, sent, event)
    return None


def _served(session: Session, request: XRequest, started: float) -> Steps:
    command = request.command
    bytes_in = bytes_out = 0
    event: str | None = None
    try:
        key, meta = yield from _names(session, request)
        if command is XCommand.PUT and meta is not None:
            bytes_in = request.length
            yield from _put(session, request, key, meta)
        elif command is XCommand.HELD:
            bytes_out = yield from answer_held(session, request)
        elif command is XCommand.PIN:
            bytes_out = yield from answer_pin(session, request, key)
        elif command is XCommand.GET:
            bytes_out, event, rest = _get(session, key, unchecked=request.argument == extension.UNCHECKED)
            if rest is not None:
                yield from session.send_rest(rest)
        elif command is XCommand.EXIST:
            held = session.backend.contains(OpaqueKey(key))
            yield from session.answer(_OK if held else _MISS)
        elif command is XCommand.REMOVE:
            session.backend.remove(OpaqueKey(key))
            yield from session.answer(_OK)
        elif command is XCommand.FLUSH:
            session.backend.flush(request.argument / 1000 if request.argument >= 0 else None)
            yield from session.answer(_OK)
        else:
            bytes_out = yield from _list(session, with_meta=command is XCommand.SCAN)
    except LmsTiersError as error:
        yield from session.answer(*_failed(session, command, error))
    session.counters.request(_NAMES[command], time.perf_counter() - started, bytes_in, bytes_out, event)


def _failed(session: Session, command: XCommand, error: LmsTiersError) -> tuple[bytes, bytes]:
    """The answer that tells of `error`; a closed storage ends the connection."""
    if isinstance(error, BackendClosedError):
        raise error
    if command is not XCommand.PUT:
        trouble(session, command.name.lower(), None, error)
    return _failure(error)


def _failure(error: LmsTiersError) -> tuple[bytes, bytes]:
    code = next((code for kind, code in _ERRORS if isinstance(error, kind)), XError.INTERNAL)
    fields = {name: getattr(error, name) for name in _FIELDS if hasattr(error, name)}
    body = json.dumps({"message": str(error), **fields}).encode()
    return extension.encode_xreply(ServerReturnCode.FAIL, len(body), error=code), body


def _names(session: Session, request: XRequest) -> Generator[Wait, None, tuple[str, ChunkMeta | None]]:
    tail: bytes | bytearray = b""
    if request.tail_bytes:
        # A long key is a body like any other: thousands of peers must not make thousands of buffers.
        share = min(request.tail_bytes, session.budget.limit)
        with session.budget.share(share, session) as taking:
            if not taking.taken:
                yield from session.admit(share)
            tail = yield from session.receive(request.tail_bytes)
    try:
        return extension.decode_xnames(request, tail)
    except (InvalidKeyError, InvalidChunkError) as error:
        session.counters.add("bad_fields")
        _log.info("a request that makes no sense", extra={"peer": session.peer, "fault": str(error)})
        yield from session.skip(request.length)
        raise


def _put(session: Session, request: XRequest, key: str, meta: ChunkMeta) -> Steps:
    batch = request.argument
    if batch and batch == session.failed_batch:
        yield from session.skip(request.length)
        yield from session.answer(extension.encode_xreply(ServerReturnCode.FAIL, error=XError.SKIPPED))
        return
    try:
        with session.budget.share(request.length, session) as share:
            if not share.taken:
                yield from session.admit(request.length)
            session.stream.acknowledge()
            digest = xxhash.xxh3_64()
            body, got = session.receive_some(request.length, digest)
            if got < request.length:
                yield from session.receive_rest(body, got, digest)
            if digest.intdigest() != request.checksum:
                session.counters.add("damaged")
                session.failed_batch = batch
                yield from session.answer(extension.encode_xreply(ServerReturnCode.FAIL, error=XError.DAMAGED))
                return
            store(session, key, meta, body)
            session.checksums.note(key, request.length, request.checksum)
    except LmsTiersError as error:
        session.failed_batch = batch
        refused(session, key, error)
        raise
    rest = session.send(_OK)
    if rest is not None:
        yield from rest


def _found(meta: ChunkMeta, checksum: int) -> bytes:
    return extension.encode_xreply(
        ServerReturnCode.SUCCESS, meta.length, meta=extension.packed(meta), checksum=checksum
    )


def _get(session: Session, key: str, unchecked: bool) -> tuple[int, str, list[memoryview] | None]:
    """Answer with a chunk as far as the peer takes it at once: its length, what to count, and the rest to be sent."""
    rest: list[memoryview] | None = None
    found = False
    length = 0
    try:
        if unchecked and session.files and session.spare():
            with session.backend.in_file(OpaqueKey(key)) as place:
                if place is not None:
                    length = place.meta.length
                    found = True
                    rest = session.send_file(_found(place.meta, place.checksum), place.fd, place.offset, length)
        if found:
            pass
        elif not session.lends:
            obj = session.backend.get(OpaqueKey(key))
            if obj is not None:
                length = obj.length
                head = _found(ChunkMeta.of_obj(key, obj), _checksum(session, key, length, (obj.data,), unchecked))
                found = True
                rest = session.send_borrowed([head, obj.data] if length else [head], lasting=True)
        else:
            with session.backend.view(OpaqueKey(key)) as view:
                if view is not None:
                    length = view.meta.length
                    head = _found(view.meta, _checksum(session, key, length, view.buffers, unchecked))
                    found = True
                    rest = session.send_borrowed([head, *view.buffers])
    except (BackendClosedError, InvalidKeyError):
        raise
    except Exception as error:
        if isinstance(error, LmsTiersError) and found:
            raise RuntimeError("the storage failed within an answer") from error  # which no other answer may follow
        if found:
            raise
        trouble(session, "xget", key, error)
    if not found:
        rest = session.send_borrowed((_MISS,))
    return length, "hits" if found else "misses", rest


def _checksum(session: Session, key: str, length: int, buffers: Sequence[Any], unchecked: bool) -> int:
    """The checksum of a chunk; the one remembered where the client compares and asks once more."""
    if unchecked and (known := session.checksums.of(key)) is not None:
        return known
    if len(buffers) == 1:
        checksum = xxhash.xxh3_64_intdigest(buffers[0])
    else:
        digest = xxhash.xxh3_64()
        for buffer in buffers:
            digest.update(buffer)
        checksum = digest.intdigest()
    session.checksums.note(key, length, checksum)
    return checksum


def _list(session: Session, *, with_meta: bool) -> Generator[Wait, None, int]:
    if with_meta:
        body = extension.encode_entries(
            (info.key.to_string(), info.meta.pack(), info.stored_bytes) for info in session.backend.scan()
        )
    else:
        body = extension.encode_entries((key.to_string(), b"", 0) for key in session.backend.list_keys())
    if len(body) > MAX_LENGTH:
        raise UnsupportedError("the lm:// wire", f"a list of {len(body)} bytes")
    yield from session.answer(extension.encode_xreply(ServerReturnCode.SUCCESS, len(body)), body)
    return len(body)
