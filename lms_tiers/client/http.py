"""Text that a server tells by HTTP, as a whole within a time."""

from __future__ import annotations

import contextlib
import http.client
import time

from lms_tiers.client.address import Address
from lms_tiers.errors import StorageUnavailableError


def ask(server: Address, path: str, timeout: float) -> list[str]:
    """The lines that a GET is answered.

    Raises
    ------
    StorageUnavailableError
        None came within `timeout` seconds.
    """
    until, data = time.monotonic() + timeout, bytearray()
    connection = http.client.HTTPConnection(server.host, server.port)
    try:
        with contextlib.closing(connection):
            connection.sock = server.connect(timeout / 2)
            connection.request("GET", path)
            response = connection.getresponse()
            while part := response.read1(1 << 20):
                data += part
                if time.monotonic() > until:
                    raise TimeoutError("it did not answer in time")
            if response.status != 200:
                raise OSError(f"status {response.status}")
            return data.decode().split("\n")
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        where = f"http://{server.host}:{server.port}{path}"
        raise StorageUnavailableError(where, f"{error or type(error).__name__}.") from None
