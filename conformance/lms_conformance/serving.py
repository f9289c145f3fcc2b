"""What stands behind ``{server}`` in a device text: the servers of places, of one kind or another."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from lms_conformance.harness import DEFAULT_CAPACITY, PATIENT

#: What an lm:// server behind ``{server}`` keeps its chunks in.
SERVED: Final = "lmdb:{tmp}/served?capacity={capacity}"


def filled(device: str, path: Path, capacity: int | None, server: str, deadline: float = PATIENT) -> str:
    """A device text with its placeholders filled in."""
    size = f"{DEFAULT_CAPACITY if capacity is None else capacity}B"
    text = device.replace("{capacity}B", "{capacity}").replace("{capacity}", size)
    return text.replace("{tmp}", str(path)).replace("{server}", server).replace("{deadline}", f"{deadline:g}")


class Serving(Protocol):
    """The servers behind ``{server}``, one a place: a `ServerHarness`, or `LmServers`."""

    local: bool
    shared: bool

    def start(self, path: Path, capacity: int | None) -> str:
        """See `Harness`; so are the rest."""

    def revive(self, path: Path) -> None: ...  # noqa: D102
    def stop(self, path: Path) -> None: ...  # noqa: D102
    def kill(self, path: Path) -> None: ...  # noqa: D102
    def stall(self, path: Path) -> None: ...  # noqa: D102
    def heal(self, path: Path) -> None: ...  # noqa: D102
    def end(self) -> None: ...  # noqa: D102


class LmServers:
    """lm:// servers over `SERVED`, in a process beside this one; in one that crash properties kill, inside it."""

    local = True
    shared = False

    def start(self, path: Path, capacity: int | None) -> str:  # noqa: D102
        from lms_conformance.servers import servers

        return servers().start(path, filled(SERVED, path, capacity, ""))

    def stop(self, path: Path) -> None:  # noqa: D102
        from lms_conformance.servers import servers

        servers().stop(path)

    revive = stop  # the next `start` starts it

    def kill(self, path: Path) -> None:  # noqa: D102
        from lms_conformance.spawned import servers_beside

        servers_beside().kill()

    def stall(self, path: Path) -> None:  # noqa: D102
        from lms_conformance.spawned import servers_beside

        servers_beside().stall()

    def heal(self, path: Path) -> None:  # noqa: D102
        from lms_conformance.spawned import servers_beside

        servers_beside().heal()

    def end(self) -> None:
        """They end with this process."""
