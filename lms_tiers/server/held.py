"""HELD, the extension's question for many keys at one time, answered from one backend."""

from __future__ import annotations

from collections.abc import Generator

import xxhash

from lms_tiers.messages import OpaqueKey, ServerReturnCode
from lms_tiers.server.session import Session, Wait
from lms_tiers.wire.extension import XError, XRequest, encode_xreply
from lms_tiers.wire.held import decode_asked, encode_bits


def answer_held(session: Session, request: XRequest) -> Generator[Wait, None, int]:
    """Serve one HELD.

    Returns
    -------
    int
        Bytes of the answer's body.

    Raises
    ------
    InvalidKeyError
        One of the keys is none; the question was read, and the connection can go on.
    """
    share = min(request.length, session.budget.limit)
    if not session.budget.acquire(share, session):
        yield from session.admit(share)
    try:
        asked = yield from session.receive(request.length)
    finally:
        session.budget.release(share)
    if xxhash.xxh3_64_intdigest(asked) != request.checksum:
        session.counters.add("damaged")
        yield from session.answer(encode_xreply(ServerReturnCode.FAIL, error=XError.DAMAGED))
        return 0
    keys = [OpaqueKey(text) for text in decode_asked(asked)]
    if request.argument:
        run = session.backend.contains_prefix(keys)
        held = [i < run for i in range(len(keys))]
    else:
        held = session.backend.contains_many(keys)
    body = encode_bits(held)
    yield from session.answer(encode_xreply(ServerReturnCode.SUCCESS, len(body)), body)
    return len(body)
