"""Real S3 servers on loopback: `moto_server`, one request at a time, and npm's `s3rver`."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
from lms_conformance import ServerHarness
from lms_conformance.loopback import LoopbackServer
from lms_conformance.remote.s3 import BUCKET, COMMAND, CREDENTIALS, ask, ready

needs_server = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "obstore")),
    reason='moto_server or obstore is not installed: pip install "moto[server]" "lms-tiers[s3]"',
)

#: Where `.ci/run` installs it: ``npm install --prefix .npm s3rver``.
_NPM: Final = Path(__file__).resolve().parents[3] / ".npm" / "node_modules" / ".bin"
S3RVER: Final = shutil.which("s3rver", path=os.pathsep.join((str(_NPM), os.environ.get("PATH", ""))))
needs_s3rver = pytest.mark.skipif(S3RVER is None, reason="s3rver is not installed: npm install --prefix .npm s3rver")


def s3rver_harness() -> ServerHarness:
    """One `s3rver` with a bucket, a prefix for each place."""
    words = ["--directory", "{folder}", "--address", "127.0.0.1", "--port", "{port}", "--silent", "--configure-bucket"]
    device = f"s3:{BUCKET}/{{tmp}}?endpoint=http://{{server}}&access_key_id=S3RVER&secret_access_key=S3RVER"
    return ServerHarness(
        (S3RVER or "s3rver", *words, BUCKET), device=device + "&timeout={deadline}s", shared=True, name="s3 over s3rver"
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
