"""LST: listing, by `list_keys` and by `scan`."""

from __future__ import annotations

import threading
from collections import Counter

from lms_conformance.chunks import Chunk
from lms_conformance.marks import OVERLAPPED, Overlap
from lms_conformance.preempt import Turns, own_files
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_tiers.messages import CacheEngineKey


@prop("LST-01", "An empty backend lists nothing; the answer is a list of keys.")
def _empty(trial: Trial) -> None:
    backend = trial.open()
    answer = backend.list_keys()
    expect(isinstance(answer, list) and not answer, "[]", repr(answer), "assert backend.list_keys() == []")
    backend.put("a", Chunk(3, 10))
    answer = backend.list_keys()
    expect(isinstance(answer, list), "a list", type(answer).__name__)
    wrong = [k for k in answer if not isinstance(k, CacheEngineKey)]
    expect(not wrong, "CacheEngineKey objects", wrong[:1])


@prop("LST-02", "One, two and a hundred keys are listed, each once.")
def _few(trial: Trial) -> None:
    backend = trial.open()
    model: dict[str, Chunk] = {}
    for i in range(100):
        backend.put(f"k{i}", Chunk(i, 10))
        model[f"k{i}"] = Chunk(i, 10)
        if i in (0, 1, 2, 99):
            backend.expect_keys(model)


@prop("LST-03", "Ten thousand keys are listed, each once.")
def _many(trial: Trial) -> None:
    backend = trial.open(capacity=256 * 1024 * 1024)
    count = trial.profile.many_keys
    texts = [f"meta-llama/Llama-3.1-8B@1@0@{i:016x}@bfloat16" for i in range(count)]
    with trial.quiet(
        f"for i in range({count}):\n    backend.put(Chunk(3, 16).message(key(f'k{{i}}')), Chunk(3, 16).data())"
    ):
        for at in range(0, count, 250):
            backend.put_many([(text, Chunk(3, 16)) for text in texts[at : at + 250]])
        backend.expect_keys(texts)


@prop(
    "LST-04",
    "Listing while others put and overwrite raises nothing and misses no key held throughout.",
    marks=[OVERLAPPED],
)
def _mutation(trial: Trial) -> None:
    backend = trial.open()
    held = [f"held{i}" for i in range(60)]
    for k in held:
        backend.put(k, Chunk(3, 16))
    stop = threading.Event()
    overlap, turns = Overlap(trial), Turns(own_files(backend.backend), 2, trial.rng)

    def mutate() -> None:
        i = 0
        with turns.of(0):
            while not stop.is_set():
                i += 1
                with overlap.call(0):
                    backend.backend.put(Chunk(i % 50, 20).message(_key(f"new{i % 40}")), Chunk(i % 50, 20).data())
                    backend.backend.put(Chunk(i % 50, 20).message(_key(held[i % 60])), Chunk(i % 50, 20).data())
                    if trial.caps.remove:
                        backend.backend.remove(_key(f"new{(i * 7) % 40}"))

    def listing() -> None:
        try:
            with turns.of(1):  # Python frames take turns; native code wants its threads to run at the same time
                look(12)
            look(28)
        finally:
            stop.set()

    def look(times: int) -> None:
        for i in range(10 * times):
            if i >= times and trial.marks[OVERLAPPED]:
                return
            try:
                with overlap.call(1):
                    found = [k.to_string() for k in backend.backend.list_keys()]
            except Exception as error:
                violate("list_keys beside puts to raise nothing", f"{type(error).__name__}: {error}")
            missing = set(held).difference(found)
            expect(not missing, "every key held throughout to be listed", f"missing {sorted(missing)[:3]}")
            twice = [k for k, n in Counter(found).items() if n > 1]
            expect(not twice, "each key once", f"twice: {twice[:3]}")

    trial.record(
        "# 60 keys held; one thread puts, overwrites and removes others while another calls list_keys() 40 times"
    )
    trial.threads([mutate, listing], 60, "listing beside puts")


@prop("LST-05", "The list is the caller's: changing it changes nothing, and later puts do not change it.")
def _callers(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 10))
    answer = backend.list_keys()
    backend.put("b", Chunk(3, 10))
    expect(len(answer) == 1, "a list of one key, as it was when it was answered", len(answer))
    answer.clear()
    backend.expect_keys(["a", "b"])


@prop("LST-06", "scan yields every chunk once, with its metadata and no more stored bytes than were to be reserved.")
def _scan(trial: Trial) -> None:
    backend = trial.open()
    model = {f"k{i}": Chunk(i, 37 * i, i % 10) for i in range(20)}
    for k, chunk in model.items():
        backend.put(k, Chunk(99, 5))
        backend.put(k, chunk)
    infos = backend.scan()
    found = sorted(i.key.to_string() for i in infos)
    expect(found == sorted(model), f"scan to yield {len(model)} keys, each once", f"{len(found)}: {found[:5]}")
    for info in infos:
        dtype, fmt, shape = model[info.key.to_string()].described
        want = (len(model[info.key.to_string()]), dtype, fmt, shape)
        got = (info.meta.length, info.meta.dtype, info.meta.fmt, tuple(info.meta.shape))
        expect(got == want, f"metadata {want} of {info.key.to_string()!r}", got)
        most = backend.backend.reserve_bytes(want[0])
        expect(0 <= info.stored_bytes <= most, f"at most reserve_bytes({want[0]}) = {most}", info.stored_bytes)


def _key(text: str) -> CacheEngineKey:
    return CacheEngineKey.from_string(text)
