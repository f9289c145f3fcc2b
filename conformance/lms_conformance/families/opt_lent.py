"""OPT, while something is open: views and scans hold nothing up, and what they lend stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lms_conformance.chunks import KIB, Chunk, key
from lms_conformance.reading import expect_meta
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_conformance.ways import Ways

SIZES = (1, 100, 4097, 300 * KIB + 1)


def _lent(view: Any) -> bytes:
    return b"".join(bytes(memoryview(b).cast("B")) for b in view.buffers if memoryview(b).nbytes)


@prop(
    "OPT-07",
    "What view lends stays as it is inside its block, overwritten or removed meanwhile, and errors of the block pass.",
    since="1.1",
)
def _lends(trial: Trial) -> None:
    backend = trial.open()
    for size in SIZES:
        chunk = Chunk(3, size, 2)
        backend.put("a", chunk)
        with backend.view("a") as first, backend.view("a") as second:
            if first is None or second is None:
                violate("two views of one chunk", "None")
            backend.put("a", Chunk(4, size))
            expect(_lent(first) == chunk.bytes(), f"the bytes lent to stay {chunk!r} when it is overwritten", "changed")
            if trial.caps.remove:
                backend.remove("a")
                backend.put("b", Chunk(5, size))
                expect(
                    _lent(second) == chunk.bytes(), f"the bytes lent to stay {chunk!r} when it is removed", "changed"
                )
            expect_meta(first.meta, chunk, "view")
            writable = [memoryview(b) for b in first.buffers if not memoryview(b).readonly]
            for lent in writable:
                lent.cast("B")[:] = bytes(lent.nbytes)
        backend.put("a", chunk)
        with backend.view("a") as view:
            for lent in [memoryview(b) for b in view.buffers if not memoryview(b).readonly] if view else ():
                lent.cast("B")[:] = bytes(lent.nbytes)
        backend.expect_chunk("a", chunk, "the chunk, though a borrower wrote into what it was lent")
    for held in ("a", "absent"):
        try:
            with backend.view(held):
                raise KeyError("mine")
        except KeyError:
            continue
        violate("the exception of a view's block to come through", "it was swallowed")
    backend.expect_chunk("a", Chunk(3, SIZES[-1], 2))


@prop(
    "OPT-08",
    "A scan that is left half way, or read beside puts and other scans, holds nothing up and tells of each chunk once.",
    since="1.1",
)
def _half_a_scan(trial: Trial) -> None:
    backend = trial.open()
    model = {f"k{i}": Chunk(i + 2, 50 * i, i % 8) for i in range(30)}
    for k, chunk in model.items():
        backend.put(k, chunk)

    def use() -> None:
        left, one, other = (iter(backend.backend.scan()) for _ in range(3))
        trial.record(f"left = {backend.var}.scan(); next(left)  # and no more of it")
        next(left)
        seen = [next(one), next(other), next(other)]
        for k, chunk in {"k0": model["k0"], "new": Chunk(9, 77)}.items():
            backend.allows(partial(backend.put, k, chunk), "put beside a scan that was left half way")
        if trial.caps.remove:
            backend.remove("new")
        backend.expect_chunk("k4", model["k4"])
        found = sorted(info.key.to_string() for info in (seen[0], *one))
        again = sorted(info.key.to_string() for info in (*seen[1:], *other))
        for texts in (found, again):
            there = [text for text in texts if text != "new"]
            expect(there == sorted(model), "a scan beside puts to yield each chunk held throughout, once", there)
        backend.list_keys()
        del left

    trial.within(20, use, "calls beside a scan that was left half way")
    subject = Ways(backend)
    subject.model = model if trial.caps.remove else {**model, "new": Chunk(9, 77)}
    subject.finish(["k0", "k29", "absent"])


@prop(
    "OPT-16",
    "Inside a view's block every other method does its work: nothing waits for what is lent by the same thread.",
    since="1.1",
)
def _inside_a_view(trial: Trial) -> None:
    backend = trial.open()
    b = backend.backend
    model = {f"k{i}": Chunk(3 + i, 300 * i, meta=("uint8", "KV_2LTD", (300 * i,))) for i in range(4)}
    for k, chunk in model.items():
        backend.put(k, chunk)
    keys = [key(k) for k in model]

    def in_it() -> None:
        new = Chunk(9, 70)
        with b.view(keys[1]) as lent, b.view(keys[2]):
            trial.record(f"# inside {backend.var}.view of k1 and k2, every other method is called")
            calls: dict[str, Callable[[], Any]] = {
                "get_many": lambda: b.get_many(keys),
                "contains_many": lambda: b.contains_many(keys),
                "list_keys": b.list_keys,
                "scan": lambda: list(b.scan()),
                "stats": b.stats,
                "touch": lambda: b.touch(keys),
                "get_into": lambda: b.get_into(keys[3], bytearray(1000)),
                "get_tensor": lambda: b.get_tensor(keys[1]),
                "put": lambda: b.put(new.message(keys[0]), new.data()),
                "put_many": lambda: b.put_many(
                    [(new.message(keys[1]), new.data()), (new.message(keys[0]), new.data())]
                ),
                "flush": b.flush,
                "save_state": lambda: b.save_state(b"state"),
            }
            if trial.caps.remove:
                calls["remove_many"] = lambda: b.remove_many([keys[1], keys[3]])
            for name, call in calls.items():
                trial.allows(call, f"{name} inside a view's block")
                trial.ran(1)
            if lent is not None:
                expect(_lent(lent) == model["k1"].bytes(), "the bytes lent to stay", "changed")

    trial.within(6, in_it, "calls inside a view's block")
    left = {"k0": Chunk(9, 70), "k1": Chunk(9, 70), **{k: model[k] for k in ("k2", "k3")}}
    if trial.caps.remove:
        left = {k: chunk for k, chunk in left.items() if k not in ("k1", "k3")}
    backend.expect_model(left, ["k1", "k3"] if trial.caps.remove else [])
