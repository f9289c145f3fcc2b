"""Addresses of host names, within a time: the system's own look-up takes as long as its name servers let it."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future
from typing import Any, Final

#: An entry of `socket.getaddrinfo`: family, kind, protocol, canonical name, address.
Found = tuple[Any, Any, int, str, Any]

#: Look-ups on their way: whoever asks for the same name waits for the same one, so that those that hang are few. A
#: child of a fork has not got their threads.
_asked: Final[dict[tuple[int, str, int], Future[list[Found]]]] = {}
_lock: Final = threading.Lock()


def addresses(host: str, port: int, timeout: float) -> list[Found]:
    """Where a host's TCP port is.

    Parameters
    ----------
    timeout : float
        Seconds.

    Raises
    ------
    OSError
        The name has no address; `TimeoutError`: that is not known in time.
    """
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # it is a name
    at = os.getpid(), host, port
    with _lock:
        found = _asked.get(at)
        if found is None:
            found = Future()
            threading.Thread(target=_look_up, args=(at, found), name="lms-tiers-names", daemon=True).start()
            _asked[at] = found  # last: what is in there has a thread that takes it out again
    try:
        return found.result(timeout)
    except TimeoutError:
        raise TimeoutError(f"no name server says in time where {host} is") from None


def own_address(host: str, port: int, timeout: float) -> str:
    """This machine's address towards a host. See `addresses`; nothing is sent."""
    family, _, _, _, at = addresses(host, port, timeout)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as towards:
        towards.connect(at)
        return str(towards.getsockname()[0])


def _look_up(at: tuple[int, str, int], found: Future[list[Found]]) -> None:
    try:
        found.set_result(socket.getaddrinfo(*at[1:], type=socket.SOCK_STREAM))
    except OSError as error:
        found.set_exception(error)
    finally:
        with _lock:
            _asked.pop(at, None)
