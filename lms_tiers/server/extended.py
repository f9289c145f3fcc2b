"""The extension's commands, each answered: acknowledged puts, removal, flush, and lists with metadata."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator
from typing import Final

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
from lms_tiers.server.plain import check_length, refused, store, trouble
from lms_tiers.server.session import Session, Steps, Wait
from lms_tiers.wire import extension
from lms_tiers.wire.extension import XCommand, XError, XRequest
from lms_tiers.wire.plain import MAX_LENGTH

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


def speaks(header: bytearray) -> bool:
    """Whether a header is one of these."""
    return extension.is_extension(header)


def answer(session: Session, header: bytearray) -> Steps:
    """Serve one request; raises `ProtocolError` where the connection cannot go on."""
    started = time.perf_counter()
    request = extension.decode_xrequest(header)
    if request.command not in (XCommand.HELD, XCommand.PIN):
        check_length(session, request.length)
    bytes_in = bytes_out = 0
    try:
        key, meta = yield from _names(session, request)
        if request.command is XCommand.PUT and meta is not None:
            bytes_in = request.length
            yield from _put(session, request, key, meta)
        elif request.command is XCommand.HELD:
            bytes_out = yield from answer_held(session, request)
        elif request.command is XCommand.PIN:
            bytes_out = yield from answer_pin(session, request, key)
        elif request.command is XCommand.GET:
            bytes_out = yield from _get(session, key, unchecked=request.argument == extension.UNCHECKED)
        elif request.command is XCommand.EXIST:
            held = session.backend.contains(OpaqueKey(key))
            yield from session.answer(_OK if held else _MISS)
        elif request.command is XCommand.REMOVE:
            session.backend.remove(OpaqueKey(key))
            yield from session.answer(_OK)
        elif request.command is XCommand.FLUSH:
            session.backend.flush(request.argument / 1000 if request.argument >= 0 else None)
            yield from session.answer(_OK)
        else:
            bytes_out = yield from _list(session, with_meta=request.command is XCommand.SCAN)
    except BackendClosedError:
        raise
    except LmsTiersError as error:
        if request.command is not XCommand.PUT:
            trouble(session, request.command.name.lower(), None, error)
        yield from session.answer(*_failure(error))
    session.counters.request(f"x{request.command.name.lower()}", time.perf_counter() - started, bytes_in, bytes_out)


def _failure(error: LmsTiersError) -> tuple[bytes, bytes]:
    code = next((code for kind, code in _ERRORS if isinstance(error, kind)), XError.INTERNAL)
    fields = {name: getattr(error, name) for name in _FIELDS if hasattr(error, name)}
    body = json.dumps({"message": str(error), **fields}).encode()
    return extension.encode_xreply(ServerReturnCode.FAIL, len(body), error=code), body


def _names(session: Session, request: XRequest) -> Generator[Wait, None, tuple[str, ChunkMeta | None]]:
    tail = bytearray()
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
            body = yield from session.receive(request.length)
            if xxhash.xxh3_64_intdigest(body) != request.checksum:
                session.counters.add("damaged")
                session.failed_batch = batch
                yield from session.answer(extension.encode_xreply(ServerReturnCode.FAIL, error=XError.DAMAGED))
                return
            store(session, key, meta, body)
    except LmsTiersError as error:
        session.failed_batch = batch
        refused(session, key, error)
        raise
    yield from session.answer(_OK)


def _found(meta: ChunkMeta, checksum: int) -> bytes:
    return extension.encode_xreply(ServerReturnCode.SUCCESS, meta.length, meta=meta.pack(), checksum=checksum)


def _get(session: Session, key: str, unchecked: bool) -> Generator[Wait, None, int]:
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
                head = _found(ChunkMeta.of_obj(key, obj), xxhash.xxh3_64_intdigest(obj.data))
                found = True
                rest = session.send_borrowed([head, obj.data] if length else [head], lasting=True)
        else:
            with session.backend.view(OpaqueKey(key)) as view:
                if view is not None:
                    digest = xxhash.xxh3_64()
                    for buffer in view.buffers:
                        digest.update(buffer)
                    length = view.meta.length
                    head = _found(view.meta, digest.intdigest())
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
        rest = session.send_borrowed([_MISS])
    if rest is not None:
        yield from session.send_rest(rest)
    session.counters.add("hits" if found else "misses")
    return length


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
