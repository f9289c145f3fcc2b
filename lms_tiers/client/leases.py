"""Leases of a client: of which holder, for how long, and how they are asked for."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import Final

from lms_tiers.client.link import Link
from lms_tiers.errors import ConfigError, UnsupportedError
from lms_tiers.wire.extension import MAX_HOLDER_BYTES, MAX_PIN_MILLISECONDS


class Leases:
    """Names the holders of one client so that no other client's are called the same."""

    def __init__(self) -> None:
        self._own: Final = secrets.token_hex(8)

    def holder(self, name: str | int) -> str:
        """A holder as the server knows it.

        Raises
        ------
        ConfigError
            The name is too long, or cannot be written in UTF-8.
        """
        holder = f"{self._own}:{name}"
        try:
            short = len(holder.encode()) <= MAX_HOLDER_BYTES
        except UnicodeEncodeError:
            short = False
        if not short:
            most = MAX_HOLDER_BYTES - len(self._own) - 1
            raise ConfigError(f"the name of a holder has {most} bytes of UTF-8 at most.")
        return holder

    @staticmethod
    def milliseconds(seconds: float) -> int:
        """How long a lease lasts, in whole milliseconds and none too short.

        Raises
        ------
        ConfigError
        """
        if not 0 < seconds <= MAX_PIN_MILLISECONDS / 1000:
            raise ConfigError(f"a lease lasts a positive number of seconds, an hour at most, not {seconds!r}.")
        return math.ceil(seconds * 1000)

    @staticmethod
    def ask(connection: Link, texts: Sequence[str], holder: str, milliseconds: int, answers: list[bool]) -> None:
        """Append to `answers` what the server says of `texts`.

        Raises
        ------
        UnsupportedError
            The server, or its storage, keeps no leases.
        """
        dialect = connection.dialect
        if not dialect.pins:
            raise UnsupportedError("this lm:// server", "pin_each")
        while len(answers) < len(texts):
            header, body, asked = dialect.pin(texts[len(answers) :], holder, milliseconds)
            connection.send([header, body])
            answers.extend(dialect.read_held(connection, asked))
