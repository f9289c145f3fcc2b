"""The secondary tier, step by step as the scheduler calls it."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import ConfigError, DeadlineExceededError, StorageUnavailableError
from lms_tiers.plugins.faulty.backend import Fault
from tests.depth import drawn
from tests.doors.vllm.conftest import PATIENCE, ROW, SLOTS, Open, chunk, metrics_of, name, request

ROOT = Path(__file__).resolve().parents[3]
READS = ("get", "get_into", "get_many", "get_many_into", "get_scattered", "view")
LMDB = "lmdb:{}?capacity=256MiB"


def test_a_first_look_is_told_to_ask_again_and_a_step_later_it_is_known(open_tier: Open) -> None:
    drive = open_tier()
    drive.store_rows([1])
    assert drive.tier.lookup(name(1), request()).name == "RETRY"
    assert drive.tier.lookup(name(2), request()).name == "RETRY"
    assert (drive.look(1), drive.look(2)) == ("HIT", "MISS")


@pytest.mark.parametrize("device", ["cpu?capacity=64MiB", LMDB, "cpu?capacity=1MiB > " + LMDB + "&promote=never"])
def test_what_was_stored_is_loaded_into_its_slots_and_into_no_others(
    open_tier: Open, tmp_path: Path, device: str
) -> None:
    drive = open_tier(device.format(tmp_path / "kv"))
    assert drive.store_rows([1, 2, 3], [4, 0, 2]).success
    drive.fill(0, b"\x11" * ROW)
    drive.fill(2, b"\x11" * ROW)
    before = [drive.slot(slot) for slot in range(SLOTS)]
    result = drive.load_rows([3, 1, 2], [1, 7, 5])
    assert result.success
    assert [drive.slot(s) for s in (1, 7, 5)] == [chunk(3), chunk(1), chunk(2)]
    assert [drive.slot(s) for s in (0, 2, 3, 4, 6)] == [before[s] for s in (0, 2, 3, 4, 6)]
    assert result.transfer_bytes == 3 * ROW


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


def test_a_damaged_chunk_is_a_miss(open_tier: Open, tmp_path: Path) -> None:
    drive = open_tier(LMDB.format(tmp_path / "kv"))
    drive.store_rows([1, 2])
    drive.store.flush(PATIENCE)
    data = next((tmp_path / "kv").rglob("data"))
    content = data.read_bytes()
    at = content.find(chunk(1)[:64])
    with data.open("r+b") as file:
        file.seek(at + 100)
        file.write(b"\x00" * 64)
    result = drive.load_rows([1, 2], [6, 7])
    assert list(result.successful_keys) == [name(2)]
    assert drive.slot(7) == chunk(2)
    assert drive.looks([1]) == ["MISS"]


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


# -- nothing waits -----------------------------------------------------------------------------------------------------


def test_no_call_of_the_scheduler_waits_for_a_store_that_is_stuck(open_tier: Open) -> None:
    drive = open_tier("faulty:cpu?capacity=64MiB", options={"workers": 2, "lookup_patience": "200ms"})
    drive.store_rows([1])
    drive.results.clear()
    gate = threading.Event()
    backend = drive.store
    stuck = {n: getattr(backend, n) for n in ("contains_many", "get_many_into", "put_from", "stats")}
    for operation, call in stuck.items():

        def waits(*given: Any, call: Any = call, **named: Any) -> Any:
            assert gate.wait(10 * PATIENCE)  # or the store comes back by failing
            return call(*given, **named)

        setattr(backend, operation, waits)
    jobs = []
    for i in range(20):
        jobs.append(drive.job([1], [2 + i % 3]))
        (drive.tier.submit_load if i % 2 else drive.tier.submit_store)(jobs[-1])
        drive.tier.lookup(name(100 + i), request(str(i)))
        drive.tier.get_stats()
        list(drive.tier.take_events())
        drive.tier.on_request_finished(request(str(i)))
        drive.step()
    assert drive.look(1) == "MISS"  # given up: the prompt is computed
    assert not gate.is_set()
    assert not drive.results
    gate.set()
    for job in jobs:
        drive.result(job)


def test_a_store_that_is_stuck_gathers_no_more_lookups_than_it_must(open_tier: Open) -> None:
    drive = open_tier(options={"lookup_patience": 3600})
    gate = threading.Event()
    call = drive.store.contains_many

    def waits(*given: Any, **named: Any) -> Any:
        assert gate.wait(10 * PATIENCE)  # or the store comes back by failing
        return call(*given, **named)

    drive.store.contains_many = waits
    answers = []
    for i in range(80):
        drive.tier.lookup(name(i), request())
        drive.step()
        answers.append(drive.tier.lookup(name(i), request()).name)
    assert answers[:60] == ["RETRY"] * 60
    assert answers[-10:] == ["MISS"] * 10
    gate.set()
    assert drive.look(3) == "MISS"


# -- the end -----------------------------------------------------------------------------------------------------------


def test_shutdown_waits_for_what_is_in_the_store_and_nothing_is_written_afterwards(open_tier: Open) -> None:
    drive = open_tier(options={"workers": 1, "close_timeout": "20ms"})
    drive.store_rows([1, 2, 3])
    gate, inside = threading.Event(), threading.Event()
    call = drive.store.get_many_into

    def waits(*given: Any, **named: Any) -> Any:
        inside.set()
        assert gate.wait(PATIENCE)
        return call(*given, **named)

    drive.store.get_many_into = waits
    drive.tier._store.backend.close, close = (lambda: None), drive.tier._store.backend.close
    drive.tier.submit_load(drive.job([1], [5]))
    drive.tier.submit_load(drive.job([2, 3], [6, 7]))
    assert inside.wait(PATIENCE)
    with pytest.raises(DeadlineExceededError, match="still use buffers"):
        drive.tier.shutdown()
    gate.set()
    drive.tier._close_timeout = 10 * PATIENCE
    drive.tier.shutdown()
    assert drive.slot(5) == chunk(1)  # it was under way
    assert (drive.slot(6), drive.slot(7)) == (b"\xa5" * ROW, b"\xa5" * ROW)
    found = {result.job_id: result for result in drive.tier.get_finished_jobs()}
    assert [found[drive.jobs - 1].success, found[drive.jobs].success] == [True, False]
    close()
    drive.release()


def test_drained_jobs_have_their_results_and_touch_no_slot(open_tier: Open) -> None:
    drive = open_tier()
    drive.store_rows([1, 2])
    jobs = [drive.job([key], [slot]) for key, slot in ((1, 4), (2, 5))]
    for job in jobs:
        drive.tier.submit_load(job)
    drive.tier.drain_jobs()
    results = list(drive.tier.get_finished_jobs())
    assert sorted(r.job_id for r in results) == [job.job_id for job in jobs]
    assert list(drive.tier.get_finished_jobs()) == []
    assert drive.look(1) == "HIT"  # a reset of the primary tier costs nothing here


def test_a_slot_that_is_not_there_fails_its_job_and_nothing_else(open_tier: Open) -> None:
    drive = open_tier()
    drive.store_rows([1])
    for slot in (SLOTS, -1, -2):
        assert not drive.load_rows([1], [slot]).success
    assert drive.load_rows([1], [SLOTS - 1]).success


# -- whose chunks they are ---------------------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "dtype": {"dtype": "float16"},
    "layout": {"kv_cache_layout": "LBHNC"},
    "canonical format": {"canonical_layout": True},
    "tensor parallel size": {"tp_size": 2, "world_size": 2},
    "pipeline parallel size": {"pp_size": 2, "world_size": 2},
    "model": {"name": "llama-2"},
    "block size": {"tokens_per_hash": 32},
    "layers": {"layers": ("l0",)},
    "row size": {"row": ROW + 4096},
    "revision": {"options": {"revision": "b2"}},
}


@pytest.mark.parametrize("other", OTHERS)
def test_chunks_of_another_run_are_a_miss(open_tier: Open, tmp_path: Path, other: str) -> None:
    device = LMDB.format(tmp_path / "kv")
    first = open_tier(device)
    first.store_rows([1])
    first.close()
    second = open_tier(device, **OTHERS[other])
    assert second.looks([1]) == ["MISS"]
    assert not second.load_rows([1], [2]).success
    assert second.slot(2) == b"\xa5" * second.row
    second.close()
    again = open_tier(device)
    assert again.looks([1]) == ["HIT"]


def test_runs_of_other_parallel_sizes_share_chunks_where_both_sides_say_so(open_tier: Open, tmp_path: Path) -> None:
    device = LMDB.format(tmp_path / "kv")
    for size, expected in ((1, "MISS"), (2, "HIT")):
        drive = open_tier(
            device, tp_size=size, world_size=size, is_parallelism_agnostic=True, options={"portable": True}
        )
        assert drive.looks([1]) == [expected]
        drive.store_rows([1])
        drive.close()
    drive = open_tier(device, tp_size=2, world_size=2, options={"portable": True})  # vLLM does not say it
    assert drive.looks([1]) == ["MISS"]


# -- after the end -----------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from contextlib import nullcontext
sys.path[:0] = {path!r}
from tests.doors.vllm import double
from tests.doors.vllm.conftest import REAL, ROW, SLOTS, Drive, rows_of, spec
import mmap
with nullcontext() if REAL else double.installed():
    from lms_tiers.doors.vllm import LMSTier
    memory = mmap.mmap(-1, ROW * SLOTS)
    view = rows_of(memory, ROW)
    tier = LMSTier(offloading_spec=spec(), primary_kv_view=view, tier_type="lms", device={device!r})
    drive = Drive(tier, memory, view, ROW)
    assert drive.store_rows([1, 2, 3, 4]).success
    print("stored", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_stored_before_the_process_was_killed_is_found_afterwards(open_tier: Open, tmp_path: Path) -> None:
    device = LMDB.format(tmp_path / "kv")
    code = KILLED.format(path=[str(ROOT), str(ROOT / "conformance")], device=device)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "stored\n"), done.stderr
    drive = open_tier(device)
    assert drive.looks([1, 2, 3, 4, 5]) == ["HIT"] * 4 + ["MISS"]
    assert drive.load_rows([4, 1], [6, 7]).success
    assert (drive.slot(6), drive.slot(7)) == (chunk(4), chunk(1))


def test_a_server_that_goes_and_comes_back_costs_misses_and_no_more(open_tier: Open) -> None:
    from lms_tiers import LMSLocalBackend
    from lms_tiers.server.server import Server
    from lms_tiers.server.settings import make_settings

    settings = {"host": "127.0.0.1", "threads": 4, "max_chunk": "1MiB", "receive_budget": "16MiB"}
    server = Server(LMSLocalBackend(), make_settings(None, {**settings, "port": 0}))
    server.__enter__()
    port = server.port
    drive = open_tier(f"lm:127.0.0.1:{port}", options={"lookup_patience": "5s"})
    try:
        assert drive.store_rows([1, 2]).success
        assert drive.looks([1, 2, 3]) == ["HIT", "HIT", "MISS"]
    finally:
        server.__exit__(None, None, None)
    assert drive.looks([1]) == ["MISS"]
    assert not drive.store_rows([3]).success
    before = drive.slot(6)
    assert not drive.load_rows([1], [6]).success
    assert drive.slot(6) == before
    with Server(LMSLocalBackend(), make_settings(None, {**settings, "port": port})):
        drive.until(lambda: drive.store_rows([4]).success)
        assert drive.looks([1, 4]) == ["MISS", "HIT"]
        assert drive.load_rows([4], [7]).success
        assert drive.slot(7) == chunk(4)
        drive.close()


def test_ranks_share_a_server(open_tier: Open) -> None:
    from lms_tiers import LMSLocalBackend
    from lms_tiers.server.server import Server
    from lms_tiers.server.settings import make_settings

    settings = {"host": "127.0.0.1", "port": 0, "threads": 4, "max_chunk": "1MiB", "receive_budget": "16MiB"}
    with Server(LMSLocalBackend(), make_settings(None, settings)) as server:
        replicas = [
            open_tier(f"lm:127.0.0.1:{server.port}", data_parallel_index=i, data_parallel_size=2) for i in range(2)
        ]
        replicas[0].store_rows([1])
        assert replicas[1].looks([1]) == ["HIT"]
        assert replicas[1].load_rows([1], [3]).success
        assert replicas[1].slot(3) == chunk(1)
        for replica in replicas:
            replica.close()


# -- faults ------------------------------------------------------------------------------------------------------------


#: What goes wrong with a third of all calls of every backend.
FAULTS = ((Fault.FAIL, 0.2), (Fault.NOTHING, 0.05), (Fault.WRONG_LENGTH, 0.05), (Fault.LIE, 0.05))


@pytest.mark.parametrize("seeds", drawn(4, 24))
def test_with_a_third_of_all_calls_failing_not_one_byte_is_wrong(open_tier: Open, tmp_path: Path, seeds: range) -> None:
    hits = failures = 0
    for seed in seeds:
        rng = random.Random(seed)
        below = rng.choice([f"faulty:cpu?capacity={20 * ROW}B", f"faulty:lmdb:{tmp_path / str(seed)}?capacity=64MiB"])
        top = rng.choice(["", f"faulty:cpu?capacity={6 * ROW}B > "])
        drive = open_tier(f"store?breaker_threshold=1000&back_pressure=10ms > {top}{below}&seed={seed}")
        faulty = [tier.backend for tier in drive.store._h.tiers]
        for backend in faulty:
            for fault, probability in FAULTS:
                backend.inject("*", fault, probability=probability)
        for _ in range(40):
            keys = rng.sample(range(12), rng.randint(1, 4))
            slots = rng.sample(range(SLOTS), len(keys))
            if rng.random() < 0.5:
                drive.store_rows(keys, slots)
                continue
            drive.looks(keys)
            around = {slot: drive.slot(slot) for slot in range(SLOTS) if slot not in slots}
            result = drive.load_rows(keys, slots)
            good = set(keys if result.success else map(_number, result.successful_keys or ()))
            for key, slot in zip(keys, slots, strict=True):
                assert key not in good or drive.slot(slot) == chunk(key), f"seed {seed}: wrong bytes of {key}"
            assert all(drive.slot(slot) == data for slot, data in around.items()), f"seed {seed}: a slot beside"
            hits += len(good)
            failures += len(keys) - len(good)
        for backend in faulty:
            backend.heal()
        drive.close()
    assert hits > 20
    assert failures > 20


def _number(key: bytes) -> int:
    return int.from_bytes(key[:-4], "big")


# -- what is told ------------------------------------------------------------------------------------------------------


def told(drive: Any) -> list[tuple[list[int], bool]]:
    return [([_number(key) for key in event.keys], event.removed) for event in drive.tier.take_events()]


def test_chunks_are_told_of_when_stored_and_when_they_leave(open_tier: Open) -> None:
    drive = open_tier(f"cpu?capacity={3 * ROW}B")
    seen: list[tuple[int, bool]] = []

    def present() -> set[int]:
        seen.extend((key, gone) for keys, gone in told(drive) for key in keys)
        return {key for key, gone in dict(seen).items() if not gone}

    drive.store_rows([1, 2])
    drive.until(lambda: present() == {1, 2})
    drive.store_rows([3, 4])
    held = {key for key in range(5) if drive.store.contains(drive.tier._store.key(_key(key)))}
    assert len(held) < 4
    drive.until(lambda: present() == held)


def test_an_event_says_where_and_whose_it_is_and_that_a_removal_follows(open_tier: Open) -> None:
    drive = open_tier()
    drive.store_rows([1])
    events: list[Any] = []

    def any_told() -> bool:
        events.extend(drive.tier.take_events())
        return bool(events)

    drive.until(any_told)
    event = events[0]
    assert (event.medium.value, event.removed, event.locality.value, event.ownership) == (
        "STORAGE",
        False,
        "LOCAL",
        "lms",
    )
    assert event.removal_expected


def test_what_a_warm_store_holds_is_told_of_first(open_tier: Open, tmp_path: Path) -> None:
    device = LMDB.format(tmp_path / "kv")
    first = open_tier(device)
    first.store_rows([1, 2])
    first.close()
    other = open_tier(device, dtype="float16")
    other.store_rows([9])
    other.close()
    again = open_tier(device)
    seen: list[tuple[list[int], bool]] = []

    def any_told() -> bool:
        seen.extend(told(again))
        return bool(seen)

    again.until(any_told)
    assert [(sorted(keys), gone) for keys, gone in seen] == [([1, 2], False)]


@pytest.mark.parametrize(("globally", "here"), [(False, True), (True, False)])
def test_nothing_is_told_where_events_are_off(open_tier: Open, globally: bool, here: bool) -> None:
    drive = open_tier(events=globally, options={"enable_kv_events": here})
    drive.store_rows([1])
    inventory = drive.tier._inventory
    drive.close()  # the store has told all it has to tell
    assert inventory._changes == inventory._early == []


def test_every_metric_that_is_told_was_defined(open_tier: Open) -> None:
    from lms_tiers.doors.vllm import LMSTier

    drive = open_tier()
    drive.store_rows([1, 2])
    drive.load_rows([1, 7], [3, 4])
    taken: dict[str, float] = {}

    def all_told() -> bool:
        stats = drive.tier.get_stats()
        if stats is not None:
            values = metrics_of(stats)
            taken.update({n: taken.get(n, 0) + v if n.endswith("_chunks") else v for n, v in values.items()})
        return "vllm:kv_offload_lms_used_bytes" in taken

    drive.until(all_told)
    assert taken["vllm:kv_offload_lms_stored_chunks"] == 2
    assert taken["vllm:kv_offload_lms_loaded_chunks"] == taken["vllm:kv_offload_lms_failed_load_chunks"] == 1
    assert taken.keys() <= LMSTier.build_metric_definitions({}).keys()


# -- configuration -----------------------------------------------------------------------------------------------------


def test_each_replica_has_a_place_of_its_own(open_tier: Open, tmp_path: Path) -> None:
    device = LMDB.format(tmp_path / "kv-{rank}")
    replicas = [open_tier(device, data_parallel_index=i, data_parallel_size=2) for i in range(2)]
    replicas[0].store_rows([1])
    assert replicas[1].looks([1]) == ["MISS"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kv-0", "kv-1"]


def test_replicas_that_would_share_a_directory_are_told_what_to_do(open_tier: Open, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\{rank\}.*lm:HOST:PORT"):
        open_tier(LMDB.format(tmp_path / "kv"), data_parallel_index=0, data_parallel_size=2)


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
