"""How the conformance kit opens `s3`: one `moto_server` with a bucket on loopback, a prefix for each place."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Final

from lms_conformance.server_harness import ServerHarness

BUCKET: Final = "chunks"
CREDENTIALS: Final = "access_key_id=id&secret_access_key=s3cret"

#: ``pip install "moto[server]"``.
COMMAND: Final = (sys.executable, "-m", "lms_conformance.remote.moto_in_turn", "{port}")


def ask(address: str, operation: str, **arguments: Any) -> Any:
    """An operation by boto3, past the backend."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=f"http://{address}", region_name="us-east-1", aws_access_key_id="id",
        aws_secret_access_key="s3cret",
    )  # fmt: skip
    with contextlib.closing(client):
        return getattr(client, operation)(**arguments)


def ready(address: str) -> bool:
    """Whether it made the bucket."""
    import socket

    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    ask(address, "create_bucket", Bucket=BUCKET)
    return True


harness: Final = ServerHarness(
    COMMAND,
    ready,
    device=f"s3:{BUCKET}/{{tmp}}?endpoint=http://{{server}}&{CREDENTIALS}&timeout={{deadline}}s",
    shared=True,
)
