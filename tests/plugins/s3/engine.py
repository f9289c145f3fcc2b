"""A real S3 server on loopback (`moto_server`, one request at a time), ended by process id."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.plugins.redis.engine import PATIENCE, until

BUCKET: Final = "chunks"
ROOT: Final = Path(__file__).resolve().parents[3]
CREDENTIALS: Final = "access_key_id=id&secret_access_key=s3cret"

needs_server = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "obstore")),
    reason='moto_server or obstore is not installed: pip install "moto[server]" "lms-tiers[s3]"',
)


class S3Server:
    """One server process with a bucket."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: Final[int] = sock.getsockname()[1]
        self.endpoint: Final = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, also after it was killed: it is empty then, but for the bucket."""
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.plugins.s3.moto_in_turn", str(self.port)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        until(self._listens)
        self.ask("create_bucket", Bucket=BUCKET)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def ask(self, operation: str, **arguments: Any) -> Any:
        """An operation by boto3: past the backend."""
        import boto3

        client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="id",
            aws_secret_access_key="s3cret",
        )  # fmt: skip
        with contextlib.closing(client):
            return getattr(client, operation)(**arguments)

    def device(self, prefix: str = "kv", **options: str) -> str:
        """A bare backend here."""
        given = "".join(f"&{name}={value}" for name, value in options.items())
        return f"s3:{BUCKET}/{prefix}?endpoint={self.endpoint}&{CREDENTIALS}{given}"

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Stopped for the block: it takes connections and answers nothing."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait(PATIENCE)
