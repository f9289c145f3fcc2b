"""Coverage-guided fuzzing of whole server sessions: `make fuzz`, after the parsers of wire.py.

Whatever comes in, in pieces of any size, a session ends without an exception of its own and gives its budget back.
Seeds are frames that are valid, so that the search starts behind the header's gates.

    python -m fuzz.session [CORPUS_DIR] -max_total_time=600
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import atheris
import torch  # noqa: F401 - its import must not count as a slow input
import xxhash

with atheris.instrument_imports():
    from fuzz.memory import run_session
    from lms_tiers.messages import ChunkMeta, ClientCommand, MemoryFormat
    from lms_tiers.wire import extension, held, plain
    from lms_tiers.wire.extension import XCommand


def one_input(data: bytes) -> None:
    """The first byte chooses the size of the pieces."""
    if data:
        run_session(data[1:], 1 + data[0] * 4)


def seeds() -> Iterator[bytes]:
    """Sessions of valid frames: each command of both protocols, chunks found, and a key longer than its field."""
    meta = ChunkMeta(64, MemoryFormat.KV_2LTD, "bfloat16", (2, 1, 4, 4))
    body = bytes(range(64))
    digest = xxhash.xxh3_64_intdigest(body)
    asked = (ClientCommand.GET, ClientCommand.EXIST, ClientCommand.LIST, ClientCommand.HEALTH)
    put = plain.encode_request(ClientCommand.PUT, "a", meta) + body
    yield put + b"".join(plain.encode_request(command, "a") for command in asked)
    for key in ("a", "k" * 400):
        yield plain.encode_greeting() + b"".join(
            (
                extension.encode_xrequest(XCommand.PUT, key, meta, argument=1, checksum=digest) + body,
                extension.encode_xrequest(XCommand.PUT, key, meta, argument=1, checksum=digest + 1) + body,
                *(
                    extension.encode_xrequest(c, key)
                    for c in XCommand
                    if c not in (XCommand.PUT, XCommand.FLUSH, XCommand.HELD, XCommand.PIN)
                ),
                extension.encode_xrequest(XCommand.FLUSH, argument=100),
                *(b"".join(held.encode_held([key, "absent", ""], leading=leading)[:2]) for leading in (False, True)),
                *(b"".join(held.encode_held([key, "absent"], leading=leading)[:2]) for leading in (False, True)),
                *(b"".join(held.encode_pin([key, "absent"], holder=key, milliseconds=ms)[:2]) for ms in (0, 5)),
            )
        )


def main() -> None:
    """Run until the time given on the command line is over; what was found is kept in the corpus folder."""
    logging.disable(logging.CRITICAL)
    given = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    corpus = Path(given or "corpus/session")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        for piece in (0, 255):
            (corpus / f"seed-{number}-{piece}").write_bytes(bytes([piece]) + seed)
    atheris.Setup([*sys.argv, *([] if given else [str(corpus)])], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
