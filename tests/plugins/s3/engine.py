"""A real S3 server on loopback (`moto_server`, one request at a time)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

import pytest
from lms_conformance.loopback import LoopbackServer

from lms_tiers.plugins.s3.conformance import BUCKET, COMMAND, CREDENTIALS, ask, ready

needs_server = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "obstore")),
    reason='moto_server or obstore is not installed: pip install "moto[server]" "lms-tiers[s3]"',
)


class S3Server(LoopbackServer):
    """One server process with a bucket; one that was killed is empty when it is healed, but for the bucket."""

    def __init__(self, folder: Path) -> None:
        super().__init__(COMMAND, ready, folder=folder, log=folder / "log")
        self.endpoint: Final = f"http://{self.address}"

    def ask(self, operation: str, **arguments: Any) -> Any:
        """An operation by boto3: past the backend."""
        return ask(self.address, operation, **arguments)

    def device(self, prefix: str = "kv", **options: str) -> str:
        """A bare backend here."""
        given = "".join(f"&{name}={value}" for name, value in options.items())
        return f"s3:{BUCKET}/{prefix}?endpoint={self.endpoint}&{CREDENTIALS}{given}"
