"""A real Mooncake Store on loopback: a master and a node."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.loopback import LoopbackServer
from lms_conformance.remote.mooncake import COMMAND, located, ready

from lms_tiers import CreateStorageBackend


def _missing() -> str:
    if importlib.util.find_spec("mooncake") is None:
        return 'Mooncake is not installed: pip install "lms-tiers[mooncake]"'
    for library in ("libibverbs.so.1", "libnuma.so.1", "libcurl.so.4"):
        try:
            ctypes.CDLL(library)
        except OSError:
            return f"Mooncake needs {library}: apt-get install libibverbs1 libnuma1 libcurl4"
    return ""


needs_server = pytest.mark.skipif(bool(_missing()), reason=_missing() or "it is there")


class MooncakeServer(LoopbackServer):
    """A master and one node; killed and healed they are empty.

    Parameters
    ----------
    size : int
        Bytes of memory that the node gives.
    options : str
        Of the master, without the dashes: ``default_kv_lease_ttl="100"``.
    """

    def __init__(self, folder: Path, size: int = 1 << 30, **options: str) -> None:
        given = [f"--{name}={value}" for name, value in options.items()]
        super().__init__((*COMMAND, str(size), *given), ready, folder=folder, log=folder.parent / f"{folder.name}.log")

    def device(self, **options: str) -> str:
        """A bare backend here."""
        given = "".join(f"&{name}={value}" for name, value in {"timeout": "60s", **options}.items())
        return f"mooncake:{located(self.address)}{given}"

    def open(self, **options: str) -> Any:
        """It, opened."""
        return CreateStorageBackend(self.device(**options))

    def process(self, name: str) -> int:
        """Process id of the ``master`` or of the ``node``."""
        return int((self.folder / f"{name}.pid").read_text())

    @contextlib.contextmanager
    def one_stalled(self, name: str) -> Iterator[None]:
        """One of the two does not go on during the block."""
        os.kill(self.process(name), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process(name), signal.SIGCONT)
