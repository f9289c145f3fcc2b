"""The secondary tier, step by step as the scheduler calls it, and its configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.adapters.vllm_tier.drive import name

from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.plugins.faulty.backend import Fault
from tests.doors.vllm.conftest import ROW, SLOTS, Open, chunk, request

ROOT = Path(__file__).resolve().parents[3]

READS = ("get", "get_into", "get_many", "get_many_into", "get_scattered", "view")

LMDB = "lmdb:{}?capacity=256MiB"


def test_a_first_look_is_told_to_ask_again_and_a_step_later_it_is_known(open_tier: Open) -> None:
    drive = open_tier()
    drive.store_rows([1])
    assert drive.tier.lookup(name(1), request()).name == "RETRY"
    assert drive.tier.lookup(name(2), request()).name == "RETRY"
    assert (drive.look(1), drive.look(2)) == ("HIT", "MISS")


def test_a_store_of_what_is_held_moves_nothing(open_tier: Open) -> None:
    drive = open_tier()
    assert drive.store_rows([1, 2]).transfer_bytes == 2 * ROW
    result = drive.store_rows([2, 1])
    assert (result.success, result.transfer_bytes) == (True, 0)


def test_a_store_that_failed_is_not_seen(open_tier: Open) -> None:
    drive = open_tier("faulty:cpu?capacity=64MiB")
    for operation in ("put", "put_many", "put_from"):
        drive.faulty().inject(operation, Fault.FAIL)
    assert not drive.store_rows([1, 2]).success
    assert drive.looks([1, 2]) == ["MISS", "MISS"]
    before = drive.slot(5)
    assert not drive.load_rows([1], [5]).success
    assert drive.slot(5) == before
    drive.faulty().heal()
    assert drive.looks([1, 2]) == ["MISS", "MISS"]


def test_of_a_load_that_failed_in_part_the_rest_is_told_and_the_failed_keys_read_as_absent(open_tier: Open) -> None:
    drive = open_tier()
    drive.store_rows([1, 3])
    assert drive.look(1) == "HIT"
    drive.store.remove(drive.tier._store.key(_key(1)))  # evicted between the look-up and the load
    result = drive.load_rows([3, 1], [6, 7])
    assert (result.success, list(result.successful_keys)) == (False, [name(3)])
    assert drive.slot(6) == chunk(3)
    assert drive.slot(7) == b"\xa5" * ROW
    assert drive.tier.lookup(name(1), request()).name == "MISS"
    drive.store_rows([1])
    assert drive.look(1) == "MISS"  # as long as the request lives, or it would try again for ever
    drive.tier.on_request_finished(request())
    assert drive.look(1) == "HIT"


def _key(number: int) -> Any:
    from lms_tiers import OpaqueKey

    return OpaqueKey(name(number).hex())


def test_what_was_found_is_kept_for_its_load_and_given_back_after_it(open_tier: Open) -> None:
    drive = open_tier(f"cpu?capacity={5 * ROW}B", options={"workers": 1})
    drive.store_rows([1, 2])
    assert drive.looks([1]) == ["HIT"]
    drive.store_rows([3, 4, 5])
    drive.store_rows([6, 7])
    held = [drive.store.contains(drive.tier._store.key(_key(key))) for key in (1, 2)]
    assert held == [True, False]
    assert drive.load_rows([1], [7]).success
    assert drive.store.info(drive.tier._store.key(_key(1))).pinned_until is None


def test_leases_are_given_back_after_a_load_that_failed(open_tier: Open) -> None:
    drive = open_tier("faulty:cpu?capacity=64MiB")
    drive.store_rows([1])
    assert drive.look(1) == "HIT"
    key = drive.tier._store.key(_key(1))
    assert drive.store.info(key).pinned_until is not None
    for operation in READS:
        drive.faulty().inject(operation, Fault.FAIL)
    assert not drive.load_rows([1], [3]).success
    assert drive.store.info(key).pinned_until is None


def test_a_slot_that_is_not_there_fails_its_job_and_nothing_else(open_tier: Open) -> None:
    drive = open_tier()
    drive.store_rows([1])
    for slot in (SLOTS, -1, -2):
        assert not drive.load_rows([1], [slot]).success
    assert drive.load_rows([1], [SLOTS - 1]).success


@pytest.mark.parametrize(
    ("device", "options", "said"),
    [
        ("", {}, 'needs a "device"'),
        ("cpu?capacity=1MiB", {"divice": "x"}, "no option 'divice'.*Did you mean 'device'"),
        ("cpu?capacity=1MiB", {"lease": "5 parsecs"}, "unknown unit"),
    ],
)
def test_a_configuration_that_is_no_good_is_refused_by_name(
    open_tier: Open, device: str, options: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        open_tier(device, options=options)


def test_a_store_that_cannot_be_opened_leaves_nothing_behind(open_tier: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailableError):
        open_tier(LMDB.format(tmp_path / "file" / "kv"))


def test_the_plugin_registers_the_type_once() -> None:
    from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

    from lms_tiers.doors.vllm.plugin import TYPE, register

    try:
        register()
        register()
        assert TYPE in SecondaryTierFactory._registry
    finally:
        SecondaryTierFactory._registry.pop(TYPE, None)


def test_the_entry_point_imports_nothing_heavy_of_ours() -> None:
    code = (
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}]\n"
        "from tests.doors.vllm import double\n"
        "with double.installed():\n"
        "    before = set(sys.modules)\n"
        "    from lms_tiers.doors.vllm.plugin import register\n"
        "    register()\n"
        "    new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "    assert not new & {'torch', 'numpy', 'lmdb', 'pydantic', 'pluggy'}, new\n"
        "    assert 'lms_tiers.doors.vllm.tier' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_vllm_without_secondary_tiers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from lms_tiers.doors.vllm.plugin import register

    monkeypatch.setitem(sys.modules, "vllm.v1.kv_offload.tiering.factory", None)
    register()
