"""The socket that a server listens on, and the file of a Unix-domain one: made, taken over from the dead, removed."""

from __future__ import annotations

import os
import socket
import stat
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.server.settings import ServerSettings

#: Connections that wait in the kernel to be accepted.
BACKLOG: Final = 1024


class Listener:
    """A listening socket.

    Raises
    ------
    StorageUnavailableError
        The address cannot be listened on.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._path: Final = settings.unix
        where = settings.unix or f"{settings.host}:{settings.port}"
        try:
            self.sock: Final = _unix(settings.unix, settings.unix_mode) if settings.unix else _tcp(settings)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageUnavailableError(where, f"cannot be listened on: {reason}.") from error
        self._file: Final = _identity(self._path) if self._path else None

    def unlink(self) -> None:
        """Remove the file of a Unix-domain socket if it is still this one's.

        To be called before `close`: while this one listens, its inode is no other's, and no server takes its place.
        """
        if self._path and self._file is not None and _identity(self._path) == self._file:
            Path(self._path).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the socket; connections that nobody has accepted are reset."""
        self.sock.close()


def _tcp(settings: ServerSettings) -> socket.socket:
    info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with ExitStack() as undo:
        listener = undo.enter_context(socket.socket(info[0], socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(info[4])
        listener.listen(BACKLOG)
        undo.pop_all()
        return listener


def _unix(path: str, mode: int) -> socket.socket:
    with ExitStack() as undo:
        listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.setblocking(False)
        _remove_stale(path)
        before = os.umask(0o777 & ~mode)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        undo.pop_all()
        return listener


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of the file at `path`."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that is gone; one that still answers, or another file, stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    if _answers(path):
        return  # and binding there says that the address is in use
    aside = f"{path}.{uuid.uuid4().hex[:8]}"
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        if _answers(aside):
            # Another server has removed the dead one's file and bound its own meanwhile: that goes back.
            with suppress(FileExistsError):
                os.link(aside, path, follow_symlinks=False)
        os.unlink(aside)


def _answers(path: str) -> bool:
    """Whether somebody listens on the socket file at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
