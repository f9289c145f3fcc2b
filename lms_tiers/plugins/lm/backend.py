"""Opens a client from a device text: `lm:host:port?timeout=2&lazy=true`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lms_tiers.client.address import tls_context
from lms_tiers.client.client import Client
from lms_tiers.errors import ConfigError
from lms_tiers.options import Options


class LmOptions(Options):
    """Options of the backend `lm`."""

    timeout: Annotated[float, Field(gt=0, description="Seconds without progress after which a request fails.")] = 5.0
    connect_timeout: Annotated[float, Field(gt=0, description="Seconds in which a connection must be made.")] = 1.0
    connections: Annotated[int, Field(ge=1, le=256, description="Most connections at one time.")] = 4
    lazy: Annotated[bool, Field(description="Open even when the server cannot be reached now.")] = False
    extension: Annotated[bool, Field(description="Ask for the extension; false speaks LMCache's protocol only.")] = True
    tls_ca: Annotated[str | None, Field(description="PEM file of the CA that signed the server's certificate.")] = None
    tls_cert: Annotated[str | None, Field(description="PEM file of this client's certificate.")] = None
    tls_key: Annotated[str | None, Field(description="PEM file of its key.")] = None


def open_backend(location: str, capacity: int | None, options: LmOptions) -> Client:
    """A client of the server at `location`; what it may hold is the server's business, so `capacity` is the tier's."""
    if not location:
        raise ConfigError("the backend 'lm' needs a place: lm:host:port, or lm:unix:/path.")
    return Client(
        location, timeout=options.timeout, connect_timeout=options.connect_timeout, connections=options.connections,
        tls=tls_context(options.tls_ca, options.tls_cert, options.tls_key), extension=options.extension,
        lazy=options.lazy,
    )  # fmt: skip
