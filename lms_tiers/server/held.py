"""HELD and PIN, the extension's requests for many keys at one time, answered from one backend."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, runtime_checkable

import xxhash

from lms_tiers.errors import UnsupportedError
from lms_tiers.messages import OpaqueKey, ServerReturnCode
from lms_tiers.request import RequestContext
from lms_tiers.server.session import Session, Wait
from lms_tiers.wire.extension import XError, XRequest, encode_xreply
from lms_tiers.wire.held import decode_asked, encode_bits

#: What is known of the keys of a question for a leading run: they are the head of a chain.
_HEAD: Final = RequestContext(position=0)


@lru_cache(maxsize=64)
def _takes_context(storage: Any) -> bool:
    return "context" in inspect.signature(storage.contains_prefix).parameters


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
    keys = yield from _asked(session, request)
    if keys is None:
        return 0
    if request.argument:
        storage: Any = session.backend
        # A thread serves many peers: what it was asked last says nothing of what this one's keys follow.
        kind: Any = type(storage)
        told = {"context": _HEAD} if _takes_context(kind) else {}
        run = storage.contains_prefix(keys, **told)
        held = [i < run for i in range(len(keys))]
    else:
        held = session.backend.contains_many(keys)
    return (yield from _answer(session, held))


def answer_pin(session: Session, request: XRequest, holder: str) -> Generator[Wait, None, int]:
    """Serve one PIN, as `answer_held`; `UnsupportedError` where the storage keeps no leases."""
    keys = yield from _asked(session, request)
    if keys is None:
        return 0
    storage: Any = session.backend
    if not isinstance(storage, Pinning):
        raise UnsupportedError("the server's storage", "pin_each")
    if request.argument:
        done = storage.pin_each(keys, request.argument / 1000, holder=holder)
    else:
        done = storage.unpin_each(keys, holder=holder)
    return (yield from _answer(session, done))


@runtime_checkable
class Pinning(Protocol):
    """What a storage offers beyond the contract for its chunks to be pinned; see `TieredStore`."""

    def pin_each(self, keys: Sequence[Any], seconds: float, *, holder: str = "") -> list[bool]:
        """Give `holder` a lease of each key that is present."""

    def unpin_each(self, keys: Sequence[Any], *, holder: str = "") -> list[bool]:
        """Give back one lease of each key."""


def _asked(session: Session, request: XRequest) -> Generator[Wait, None, list[OpaqueKey] | None]:
    """The keys of a request; None where they were damaged on their way, which has been answered."""
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
        return None
    return [OpaqueKey(text) for text in decode_asked(asked)]


def _answer(session: Session, bits: Sequence[bool]) -> Generator[Wait, None, int]:
    body = encode_bits(bits)
    yield from session.answer(encode_xreply(ServerReturnCode.SUCCESS, len(body)), body)
    return len(body)
