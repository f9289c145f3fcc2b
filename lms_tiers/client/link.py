"""A connection and what is spoken on it."""

from __future__ import annotations

from lms_tiers.client.connection import Connection
from lms_tiers.client.dialect import Dialect


class Link(Connection):
    """A connection to a server whose protocol is known.

    Attributes
    ----------
    dialect : Dialect
        Set once the server has been asked.
    """

    dialect: Dialect
