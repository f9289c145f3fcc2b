"""What `lms-tiers doctor` says of a Mooncake Store: its nodes, how full they are, and that nobody guards it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lms_tiers.client.http import ask
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.mooncake.backend import MooncakeBackend


def probe(backend: MooncakeBackend) -> Iterator[tuple[str, str, str]]:
    """State, finding and advice: the master, the nodes' memory, security."""
    try:
        nodes = [name for name in ask(backend.admin, "/get_all_segments", 5) if name.strip()]
        told = "".join(ask(backend.admin, "/metrics/summary", 5))
    except StorageUnavailableError as error:
        yield "fault", str(error), "without the master's HTTP nothing can be listed."
        return
    memory = re.search(r"Mem Storage: ([^|}]+?) *[|}]", told)
    if nodes:
        yield "ok", f"{len(nodes)} nodes hold {memory[1] if memory else 'chunks'}", ""
    else:
        yield "fault", "no node gives memory", "start `mooncake_client` on some hosts: it is this tier's capacity."
    yield "note", "the engine knows no users and no TLS", "let nobody else reach its network."
