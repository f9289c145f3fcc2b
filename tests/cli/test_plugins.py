"""`lms-tiers plugins` and the shape of the command line."""

from __future__ import annotations

import json
import subprocess
import sys


def lms_tiers(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lms_tiers", *arguments], capture_output=True, text=True, check=False)


def test_the_listing_names_every_built_in_with_distribution_and_version() -> None:
    done = lms_tiers("plugins", "--json")
    assert done.returncode == 0, done.stderr
    listing = json.loads(done.stdout)
    assert {p["distribution"] for p in listing["plugins"] if p["name"] in ("cpu", "lmdb")} == {"lms-tiers"}
    assert {"cpu", "lmdb", "pinned", "gpu", "lm", "faulty"} <= set(listing["backends"])
    assert {"lru", "hazard"} <= set(listing["policies"])
    assert {"raw", "zstd", "planes", "auto"} <= set(listing["codecs"])


def test_the_table_shows_states_and_examples() -> None:
    done = lms_tiers("plugins")
    assert done.returncode == 0, done.stderr
    assert "lmdb" in done.stdout
    assert "broken" not in done.stdout


def test_an_unknown_command_exits_2() -> None:
    assert lms_tiers("no-such-command").returncode == 2


def test_an_error_of_ours_is_one_line_and_exit_2() -> None:
    done = lms_tiers("replay", "no-such-trace.jsonl", "--device", "cpo")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
