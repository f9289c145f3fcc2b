"""Asking a server which keys it holds: in one question where it takes many keys, else in a window of questions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lms_tiers.client.connection import Buffer
from lms_tiers.client.link import Link
from lms_tiers.client.pipeline import WINDOW, pipeline


def ask(connection: Link, texts: Sequence[str], answers: list[bool], *, leading: bool) -> None:
    """Append to `answers` what the server says of the `texts` that have none yet.

    Parameters
    ----------
    leading : bool
        Stop after the first key that is not held.
    """
    dialect = connection.dialect
    while len(answers) < len(texts) and not (leading and False in answers):
        rest = texts[len(answers) :]
        if dialect.asks_many:
            header, body, asked = dialect.held(rest, leading=leading)
            connection.send([header, body])
            answers.extend(dialect.read_held(connection, asked))
        else:
            part = rest[:WINDOW] if leading else rest
            frames: list[list[Buffer]] = [[dialect.exists(text)] for text in part]
            answers.extend(pipeline(connection, frames, partial(_read, connection, part)))


def _read(connection: Link, part: Sequence[str], i: int) -> bool:
    return connection.dialect.read_exists(connection, part[i])
