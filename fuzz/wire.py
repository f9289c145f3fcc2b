"""Coverage-guided fuzzing of the wire's parsers: `make fuzz`. Whole sessions are session.py's.

Whatever bytes come in, a parser answers a record or raises an error of the taxonomy, and what it answers encodes to
the same bytes again where the format is canonical.

    python -m fuzz.wire [CORPUS_DIR] -max_total_time=600
"""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports():
    from lms_tiers.errors import LmsTiersError, ProtocolError
    from lms_tiers.messages import ClientCommand
    from lms_tiers.wire import extension, plain


def _plain_request(data: bytes) -> None:
    try:
        request = plain.decode_request(data)
    except ProtocolError:
        return
    assert request.length >= 0
    if request.key is None:
        return
    assert plain.decode_key(plain.encode_key(request.key)) == request.key
    if request.meta is not None:
        again = plain.decode_request(plain.encode_request(ClientCommand.PUT, request.key, request.meta))
        assert (again.key, again.meta, again.length) == (request.key, request.meta, request.length)


def _plain_reply(data: bytes) -> None:
    try:
        plain.reply_meta(plain.decode_reply(data))
    except ProtocolError:
        return


def _extended_request(data: bytes) -> None:
    head, rest = data[: plain.CLIENT_HEADER.size], data[plain.CLIENT_HEADER.size :]
    try:
        request = extension.decode_xrequest(head)
        tail = rest[: request.tail_bytes]
        if len(tail) < request.tail_bytes:
            return
        key, meta = extension.decode_xnames(request, tail)
    except LmsTiersError:
        return
    if meta is not None:
        again = extension.encode_xrequest(
            request.command, key, meta, argument=request.argument, checksum=request.checksum
        )
        first = again[: plain.CLIENT_HEADER.size]
        assert extension.decode_xnames(extension.decode_xrequest(first), again[len(first) :]) == (key, meta)


def _extended_reply(data: bytes) -> None:
    try:
        extension.decode_xreply(data[: plain.SERVER_HEADER.size])
    except ProtocolError:
        return


def _entries(data: bytes) -> None:
    try:
        list(extension.decode_entries(data))
    except ProtocolError:
        return


_TARGETS = (_plain_request, _plain_reply, _extended_request, _extended_reply, _entries)


def one_input(data: bytes) -> None:
    """The first byte chooses the target; a header is cut or padded to its size, so that most inputs pass that gate."""
    if not data:
        return
    target = _TARGETS[data[0] % len(_TARGETS)]
    body = data[1:]
    size = {_plain_request: plain.CLIENT_HEADER.size, _plain_reply: plain.SERVER_HEADER.size}.get(target)
    if size is not None and data[0] < 0xF0:
        body = body[:size].ljust(size, b" ")
    target(body)


def main() -> None:
    """Run until the time given on the command line is over."""
    logging.disable(logging.CRITICAL)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
