"""The door as a whole: what it clears and tells, its configuration, what it imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import ConfigError
from tests.doors.sglang.conftest import (
    Open,
    pool_of,
    storage,
)

ROOT = Path(__file__).parents[3]

MEMORY = "cpu?capacity=64MiB"


def test_clearing_removes_what_is_this_runs_and_nothing_else(open_door: Open, served: Callable[..., Any]) -> None:
    device = f"lm:127.0.0.1:{served().port}"
    ours, theirs = open_door(device), open_door(device, model_name="qwen")
    for drive in (ours, theirs):
        assert all(drive.save([1, 2, 3]))
    assert ours.door.clear() is True
    assert (ours.looks([1, 2, 3]), theirs.looks([1, 2, 3])) == ([False] * 3, [True] * 3)


def test_what_was_moved_is_told_once_in_the_engines_terms(open_door: Open) -> None:
    drive = open_door(MEMORY)
    drive.save([1, 2, 3])
    drive.load([1, 2, 9], [4, 5, 6])
    told = drive.door.get_stats()
    assert (told.backup_pgs, told.prefetch_pgs) == ([3], [2])
    assert len(told.backup_bandwidth) == len(told.prefetch_bandwidth) == 1
    assert told.backup_bandwidth[0] > 0
    again = drive.door.get_stats()
    assert (again.backup_pgs, again.prefetch_pgs) == ([], [])
    quiet = open_door(MEMORY, enable_storage_metrics=False)
    quiet.save([1])
    assert quiet.door.get_stats() is None


def test_a_pool_may_be_registered_after_transfers_have_begun_and_again(open_door: Open) -> None:
    drive = open_door(MEMORY)
    drive.save([1])
    known = drive.door._pools["kv"]
    drive.door.register_mem_host_pool_v2(drive.pool, storage().PoolName.KV)
    assert drive.door._pools["kv"] is known
    drive.door.register_mem_host_pool_v2(pool_of("page_head"), storage().PoolName.KV)
    assert drive.looks([1]) == [False], "another pool has pages of another layout"


@pytest.mark.parametrize(
    ("options", "match"),
    [({"device": ""}, "device"), ({"devise": "cpu"}, "device"), ({"promote": "perhaps"}, "promote"),
     ({"close_timeout": "soon"}, "close_timeout"), ({"namespace": {"a": 1.5}}, "namespace")],
)  # fmt: skip
def test_a_configuration_that_is_no_good_is_refused_by_name(open_door: Open, options: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        open_door(MEMORY, options=options)


def test_without_sglang_the_door_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['sglang'] = None\n"
        "import lms_tiers.doors.sglang as door\n"
        "from lms_tiers.errors import ConfigError\n"
        "try:\n"
        "    door.HiCache\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    environ = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environ)
    assert "pip install sglang" in done.stdout, done.stderr


def test_importing_the_door_imports_neither_torch_nor_sglang() -> None:
    code = (
        "import sys\n"
        "import lms_tiers.doors.sglang\n"
        "import lms_tiers.doors.sglang.pages, lms_tiers.doors.sglang.pool, lms_tiers.doors.sglang.opening\n"
        "assert not {'torch', 'sglang'} & set(sys.modules)\n"
    )
    environ = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environ)


def test_options_are_read_beside_the_engines_own(open_door: Open) -> None:
    from lms_tiers.doors.sglang.options import options_of

    given = options_of({"backend_name": "lms", "interface_v1": 1, "device": "cpu", "close_timeout": "2s"})
    assert (given.device, given.close_timeout, given.promote) == ("cpu", 2.0, False)
