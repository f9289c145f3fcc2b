"""What `lms-tiers doctor` says of an engine."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from lms_tiers.cli import app
from tests.plugins.redis.engine import RedisServer, needs_server

pytestmark = needs_server


def told(device: str, status: int = 0) -> list[tuple[str, str]]:
    done = CliRunner().invoke(app, ["doctor", "--json", "--device", device])
    assert done.exit_code == status, done.output
    return [(f["state"], f["value"] + f["advice"]) for f in json.loads(done.stdout) if f["subject"] == "tier redis"]


def test_it_says_whether_the_engine_is_set_up_as_a_cache(doomed: RedisServer) -> None:
    device = f"cpu?capacity=1MiB > redis:127.0.0.1:{doomed.port}?timeout=60s"
    for limit, policy, state, words in (
        ("0", "noeviction", "note", "without a limit"),
        ("50mb", "noeviction", "note", "allkeys-lru"),
        ("50mb", "allkeys-lru", "ok", "of 50 MiB"),
    ):
        doomed.ask("CONFIG", "SET", "maxmemory", limit)
        doomed.ask("CONFIG", "SET", "maxmemory-policy", policy)
        ((found, text),) = told(device)
        assert found == state
        assert words in text
    doomed.ask("ACL", "SETUSER", "kv", "on", ">s3cret", "~lms:*", "+get", "+cluster|slots")
    ((found, text),) = told(f"{device}&username=kv&password=s3cret")
    assert found == "note"
    assert "+info" in text
    assert "s3cret" not in text


def test_one_that_is_out_of_reach_is_a_fault_without_its_password() -> None:
    ((found, text),) = told("cpu?capacity=1MiB > redis:127.0.0.1:1?password=s3cret", 1)
    assert found == "fault"
    assert "cannot be reached" in text
    assert "s3cret" not in text
