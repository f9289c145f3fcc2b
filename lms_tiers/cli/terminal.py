"""Standard output and error that take every character, and that end a command in good order where nobody reads on.

Every command runs inside `any_terminal`. What is printed is decided by the commands.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO, cast

from lms_tiers.errors import StorageUnavailableError

#: What a shell reports of a program that SIGPIPE ended.
READER_GONE: Final = 141

_HANDLER: Final = "lms-tiers-plain"
#: One character for one, so that tables stay in line.
_PLAIN: Final = {"–": "-", "—": "-", "…": ".", "µ": "u", "×": "x", "━": "-", "•": "*", "’": "'"}
_ESCAPED_BYTES: Final = range(0xDC80, 0xDD00)


@contextmanager
def any_terminal() -> Iterator[None]:
    """Inside, nothing that is printed raises for its characters.

    What the terminal's encoding lacks is written plainly or as an escape, and a byte of a file name that is no text as
    ``\\xff``. A closed pipe behind standard output is `SystemExit` with `READER_GONE`; another fault of it is a
    `StorageUnavailableError`. Faults of standard error are passed over: there is nobody to tell.
    """
    codecs.register_error(_HANDLER, _plain)
    before, before_error = sys.stdout, sys.stderr
    # Without descriptor 1 the next file opened would take its place, and printing would write into it.
    opened = open(os.devnull, "w", encoding="utf-8") if before is None else None  # noqa: SIM115 - closed below
    output: Any = opened or before
    sys.stdout = cast(TextIO, _Output(output))
    if before_error is not None:
        sys.stderr = cast(TextIO, _Error(before_error))
    errors = [(stream, stream.errors) for stream in (output, before_error) if isinstance(stream, io.TextIOWrapper)]
    try:
        for stream, _ in errors:
            stream.reconfigure(errors=_HANDLER)
        yield
    finally:
        sys.stdout, sys.stderr = before, before_error
        for stream, name in errors:
            with suppress(OSError, ValueError):  # what could not be written was told of, or the stream is closed
                stream.reconfigure(errors=name)
        if opened is not None:
            opened.close()


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An encoding error handler: see `any_terminal`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or _escape(ord(character)) for character in lacking), error.end


def _escape(code: int) -> str:
    if code in _ESCAPED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Stream:
    """A stream without a binary `buffer`: given one, click writes past the encoding that was asked for."""

    buffer: Final = None

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Output(_Stream):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._fault: OSError | None = None

    def write(self, text: str) -> int:
        with self._guard():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._guard():
            self._stream.flush()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One fault is the fault of every later call: click tries streams out and passes over what they raise."""
        if self._fault is None:
            try:
                yield
            except OSError as error:
                self._fault = error
                self._give_up()
        if isinstance(self._fault, BrokenPipeError):
            raise SystemExit(READER_GONE) from None
        if self._fault is not None:
            reason = f"cannot be written: {self._fault.strerror or self._fault}."
            raise StorageUnavailableError("standard output", reason) from self._fault

    def _give_up(self) -> None:
        """What is buffered still goes nowhere, instead of raising again when the interpreter ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)


class _Error(_Stream):
    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()
