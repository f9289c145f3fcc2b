"""Pages there and back: what is held, where it lands, what is beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lms_conformance.adapters.driven import CANARY, content
from lms_conformance.adapters.hicache import RULES, pools
from lms_conformance.adapters.hicache.drive import Drive, name
from lms_conformance.adapters.hicache.harness import PAGES, HiCacheHarness
from lms_conformance.adapters.trial import AdapterTrial
from lms_conformance.violation import expect, violate

#: Keys of drawn programs: few, so that they meet again.
KEYS = 10


@dataclass(frozen=True, slots=True)
class Case:
    """A pool by numbers (every adapter has other layouts), and steps: keys and slots to save to, or to load from."""

    layout: int
    way: int
    latent: bool
    steps: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]


@st.composite
def _steps(draw: Any, kinds: Sequence[str]) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    keys = draw(st.lists(st.integers(0, KEYS - 1), min_size=1, max_size=6, unique=True))
    slots = draw(st.lists(st.integers(0, PAGES - 1), min_size=len(keys), max_size=len(keys), unique=True))
    return draw(st.sampled_from(kinds)), tuple(keys), tuple(slots)


def cases(*kinds: str) -> SearchStrategy[Case]:
    """Programs of these kinds of steps, after one that saves."""
    return st.builds(
        lambda layout, way, latent, first, more: Case(layout, way, latent, (first, *more)),
        st.integers(0, 11), st.integers(0, 5), st.booleans(), _steps(["save"]),
        st.lists(_steps(kinds), min_size=1, max_size=6),
    )  # fmt: skip


def opened(trial: AdapterTrial, case: Case, **how: Any) -> Drive:
    """A backend over the pool of a case."""
    harness = trial.harness
    assert isinstance(harness, HiCacheHarness)
    layout = harness.layouts[case.layout % len(harness.layouts)]
    latent = case.latent and layout != "page_head"  # latents have no heads
    drive: Drive = trial.adapter(
        way=harness.ways[case.way % len(harness.ways)], layout=layout, latent=latent, **how
    )  # fmt: skip
    return drive


def stored(drive: Drive, keys: Sequence[int], slots: Sequence[int] | None = None) -> None:
    """Save, and be told that all are held."""
    saved = drive.save(keys, slots)
    expect(saved == [True] * len(keys), "every page to be stored", saved)


@RULES(1, "A page that was stored comes back bit for bit to the slot it is asked for, in every layout, by every way.",
       given=lambda: cases("save", "load"))  # fmt: skip
def _come_back(trial: AdapterTrial, case: Case) -> None:
    drive, held = opened(trial, case), set[int]()
    for kind, keys, slots in case.steps:
        if kind == "save":
            stored(drive, keys, slots)
            held |= set(keys)
            continue
        for key, slot, there in zip(keys, slots, drive.load(keys, slots), strict=True):
            if key in held:
                expect(there, f"page {key}, which was stored, to be loaded", "a miss")
                expect(drive.holds(slot, key), f"slot {slot} to hold page {key}", "other bytes")
        drive.wipe()


@RULES(2, "A page that is not held is a miss and leaves its slot as it was; those beside it in the batch still come.",
       given=lambda: cases("save", "load", "load"))  # fmt: skip
def _misses(trial: AdapterTrial, case: Case) -> None:
    drive, held = opened(trial, case), set[int]()
    for kind, keys, slots in case.steps:
        if kind == "save":
            stored(drive, keys, slots)
            held |= set(keys)
            continue
        there = drive.load(keys, slots)
        expect(there == [key in held for key in keys], f"{[key in held for key in keys]}", there)
        missed = [slot for key, slot in zip(keys, slots, strict=True) if key not in held]
        spoilt = [slot for slot in missed if drive.slot(slot) != bytes([CANARY]) * drive.nbytes]
        expect(not spoilt, "slots of misses to be as they were", f"slots {spoilt} were written")
        drive.wipe()


@RULES(3, "A load writes its own slots and no other; storing writes none.", given=lambda: cases("put", "load"))
def _beside(trial: AdapterTrial, case: Case) -> None:
    drive = opened(trial, case)
    for kind, keys, slots in case.steps:
        if kind == "load":
            drive.load(keys, slots)
            expect(not drive.touched(*slots), f"only slots {list(slots)} to be written", drive.touched(*slots))
            drive.wipe()
            continue
        for key, slot in zip(keys, slots, strict=True):
            drive.fill(slot, content(key, drive.nbytes))
        trial.record(f"{drive.var}.put({list(keys)}, {list(slots)})")
        trial.allows(lambda drive=drive, keys=keys, slots=slots: drive.put(keys, slots), "storing")  # type: ignore[misc]
        spoilt = [slot for key, slot in zip(keys, slots, strict=True) if not drive.holds(slot, key)]
        expect(not spoilt + drive.touched(*slots), "host memory as it was", spoilt + drive.touched(*slots))
        drive.wipe()


@RULES(4, "`exists` tells of each page what a load would find, and `batch_exists` how many lead without a gap.",
       given=lambda: cases("save", "look", "look"))  # fmt: skip
def _told(trial: AdapterTrial, case: Case) -> None:
    drive, held = opened(trial, case), set[int]()
    for kind, keys, slots in case.steps:
        if kind == "save":
            stored(drive, keys, slots)
            held |= set(keys)
            continue
        there = [key in held for key in keys]
        seen, lead = drive.exist(keys), drive.leading(keys)
        expect(seen == there, f"exists: {there}", seen)
        expect(lead == (*there, False).index(False), f"{(*there, False).index(False)} leading pages", lead)


@RULES(5, "Storing pages that are held is a success and changes none; one page may stand in a batch twice.")
def _again(trial: AdapterTrial) -> None:
    harness = trial.harness
    assert isinstance(harness, HiCacheHarness)
    for way in harness.ways:
        drive: Drive = trial.adapter(way=way)
        stored(drive, [1, 2])
        stored(drive, [2, 3, 1])
        stored(drive, [4, 4, 5])
        keys = [1, 2, 3, 4, 5, 4]
        there = drive.load(keys, range(6))
        expect(there == [True] * 6, "every page, the one that is asked for twice too", there)
        wrong = [slot for slot, key in enumerate(keys) if not drive.holds(slot, key)]
        expect(not wrong, "every slot to hold its page", f"slots {wrong} hold others")


# -- pools beside the model's own --------------------------------------------------------------------------------------


def _beside_it(trial: AdapterTrial, drive: Drive) -> tuple[pools.States, Any]:
    from sglang.srt.mem_cache.hicache_storage import PoolName

    states = pools.States(PAGES)
    trial.record(f"{drive.var}.backend.register_mem_host_pool_v2(states, PoolName.MAMBA)")
    drive.backend.register_mem_host_pool_v2(states, PoolName.MAMBA)
    return states, PoolName.MAMBA


def _moved(trial: AdapterTrial, drive: Drive, what: str, *transfers: Any) -> Any:
    moves = ", ".join(f"{t.name} × {len(t.keys)}" for t in transfers)
    trial.record(f"# {drive.var}.backend.{what}: {moves}")
    return trial.allows(lambda: getattr(drive.backend, what)(list(transfers)), what)


@RULES(6, "`batch_exists_v2` answers of what is held what SGLang's own file backend answers.", needs=["v2", "oracle"],
       given=lambda: st.tuples(
           st.sets(st.integers(0, 7), max_size=2).map(lambda gone: set(range(8)) - gone),
           st.sets(st.integers(2, 7), min_size=1) | st.sets(st.integers(0, 7)),
           st.lists(st.tuples(st.just(list(range(9))) | st.permutations(range(9)), st.sampled_from([1, 2, 3, 0])),
                    min_size=2, max_size=5)))  # fmt: skip
def _fold(trial: AdapterTrial, case: tuple[set[int], set[int], list[tuple[list[int], int]]]) -> None:
    """The oracle is a file backend that was given the same pages."""
    from sglang.srt.mem_cache.hicache_storage import PoolName

    own, beside, looks = case
    drives: list[Drive] = [trial.adapter(way="v2")]
    file = pools.file_backend(trial.directory())
    file.register_mem_pool_host(drives[0].pool)
    file.register_mem_host_pool_v2(drives[0].pool, PoolName.KV)
    drives.append(Drive(file, drives[0].pool, "v2", PAGES))
    drives[1].var = "file"
    for drive in drives:
        _beside_it(trial, drive)
        _stored_side_by_side(trial, drive, sorted(own), sorted(beside))
    for numbers, trailing in looks:
        names = [name(key) for key in numbers]
        answers = []
        for drive in drives:
            wanted = drive.transfer("mamba", names, trailing=trailing)
            trial.record(f"{drive.var}.backend.batch_exists_v2({numbers}, trailing={trailing})")
            found = trial.allows(partial(drive.backend.batch_exists_v2, names, [wanted]), "batch_exists_v2")
            hits = {str(getattr(k, "value", k)): v for k, v in found.extra_pool_hit_pages.items()}
            answers.append((found.kv_hit_pages, hits, found.restorable_prefix_pages))
        # Before 0.5.23 the file backend does not tell what can be restored.
        told = 2 if answers[1][2] is None else 3
        expect(answers[0][:told] == answers[1][:told], f"as of the file backend, {answers[1]}", answers[0])


def _stored_side_by_side(trial: AdapterTrial, drive: Drive, own: list[int], beside: list[int]) -> None:
    for keys, pool, size in ((own, "kv", drive.pool.page_size), (beside, "mamba", 1)):
        if keys:
            indices = Drive.indices(drive, range(len(keys))) if size > 1 else _slots(len(keys))
            answer = _moved(trial, drive, "batch_set_v2", drive.transfer(pool, [name(k) for k in keys], indices))
            expect(all(*answer.values()), f"{len(keys)} pages of {pool} to be stored", answer)


def _slots(count: int) -> Any:
    import torch

    return torch.arange(count, dtype=torch.int64)


@RULES(7, "Pools keep their pages apart: one key's page in one is not its page in another.", needs=["v2"])
def _apart(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(way="v2")
    states, _ = _beside_it(trial, drive)
    side = Drive(drive.backend, states, "v2", PAGES)
    for slot in range(3):
        drive.fill(slot, content(slot, drive.nbytes))
        side.fill(slot, content(slot, side.nbytes))
    names = [name(key) for key in range(3)]
    kv, mamba = drive.transfer("kv", names, drive.indices(range(3))), drive.transfer("mamba", names[1:], _slots(3)[1:])
    answer = _moved(trial, drive, "batch_set_v2", kv, mamba)
    expect([list(answer[t.name]) for t in (kv, mamba)] == [[True] * 3, [True] * 2], "every page to be stored", answer)
    back = (
        drive.transfer("kv", [names[2], names[0]], drive.indices([8, 9])),
        drive.transfer("mamba", [names[2], names[0]], _slots(10)[8:]),
    )
    answer = _moved(trial, drive, "batch_get_v2", *back)
    seen = [list(answer[t.name]) for t in back]
    expect(seen == [[True, True], [True, False]], "the pages of each pool, and no state of page 0", seen)
    if not (drive.holds(8, 2) and drive.holds(9, 0) and side.holds(8, 2)):
        violate("each pool's own bytes", "other bytes")
    expect(side.slot(9) == bytes(side.nbytes), "the slot of the missing state as it was", "it was written")


@RULES(8, "A transfer with indices of another number of pages moves nothing, and each of its keys is answered False.",
       needs=["v2"])  # fmt: skip
def _mismatched(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(way="v2")
    stored(drive, [1, 2])
    for indices in (drive.indices([3]), None):
        wanted = drive.transfer("kv", [name(1), name(2)], indices)
        for what in ("batch_get_v2", "batch_set_v2"):
            answer = _moved(trial, drive, what, wanted)
            expect(list(answer[wanted.name]) == [False, False], "[False, False]", answer)
    expect(not drive.touched(), "no slot to be written", drive.touched())
