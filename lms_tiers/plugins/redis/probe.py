"""What `lms-tiers doctor` says of an engine: whether its nodes answer, and whether they are set up as a cache."""

from __future__ import annotations

from collections.abc import Iterator

from lms_tiers.plugins.redis.backend import RedisBackend
from lms_tiers.resp.link import Refusal, command, shown
from lms_tiers.resp.nodes import Request
from lms_tiers.sizes import format_size


def probe(backend: RedisBackend) -> Iterator[tuple[str, str, str]]:
    """State (`ok`, `note` or `fault`), finding and advice of each primary."""
    primaries = backend.nodes.primaries()
    asked = [Request(b"", command(b"INFO", b"memory"), at=address) for address in primaries]
    backend.nodes.run(asked)
    if not asked:
        yield "fault", "a Cluster without slots", "finish `redis-cli --cluster create`."
    for address, request in zip(primaries, asked, strict=True):
        where = shown(address)
        if request.fault is not None:
            yield "fault", f"{where} does not answer: {request.fault}", "start it, or mend the network between."
        elif isinstance(request.answer, Refusal):
            yield (
                "note",
                f"{where} answers, and tells nothing of its memory",
                "grant the user `+info` to have it looked at.",
            )
        else:
            yield _memory(
                where, dict(line.split(":", 1) for line in request.answer.decode().split("\r\n") if ":" in line)
            )


def _memory(where: str, told: dict[str, str]) -> tuple[str, str, str]:
    limit, policy = int(told.get("maxmemory", 0)), told.get("maxmemory_policy", "")
    held = f"{where} holds {format_size(int(told.get('used_memory', 0)))}"
    if not limit:
        return "note", f"{held}, without a limit", "set `maxmemory`: it is the capacity of this tier."
    found = f"{held} of {format_size(limit)}, {policy}"
    if policy == "noeviction":
        return "note", found, "set `maxmemory-policy allkeys-lru`, or a full engine refuses chunks."
    return "ok", found, ""
