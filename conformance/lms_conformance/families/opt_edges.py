"""OPT, at the edges: unusable keys and buffers, failing items, views and scans that stay open, and after close."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from lms_conformance.buffers import FILL
from lms_conformance.chunks import KIB, Chunk, DuckKey, key, show
from lms_conformance.programs import Op
from lms_conformance.reading import expect_meta, spelled
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_conformance.ways import Ways
from lms_conformance.zoo.memory import MemoryReference
from lms_tiers.errors import (
    BackendClosedError,
    InvalidBufferError,
    InvalidChunkError,
    InvalidKeyError,
    LmsTiersError,
)

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
    "OPT-09",
    "Reading into buffers that are too small, read-only or strided raises InvalidBufferError and leaves them alone.",
    since="1.1",
)
def _bad_buffers(trial: Trial) -> None:
    backend = trial.open()
    for size in (2, 100, 300 * KIB):
        chunk = Chunk(3, size)
        backend.put("a", chunk)
        base = np.full(2 * size, FILL, dtype=np.uint8)
        good = bytearray([FILL]) * size
        cases: dict[str, list[Any]] = {
            "too small together": [bytearray([FILL]) * (size // 2), bytearray([FILL]) * (size - size // 2 - 1)],
            "none at all": [],
            "one that is read-only": [good, bytes(size)],
            "one that is strided": [good, base[::2]],
            "one that is no buffer": [good, "text"],
        }
        for name, buffers in cases.items():
            _into_bad(backend, buffers, name)
            written = [b for b in (*buffers, base) if isinstance(b, (bytearray, np.ndarray)) and any(_other(b))]
            expect(not written, f"buffers with {name} untouched", written and show(bytes(written[0])))
        read_only = backend.rejects(
            InvalidBufferError, partial(backend.get_into, "a", bytes(size)), "get_into bytes, which nobody may write to"
        )
        expect(len(str(read_only)) >= 10, "an error that says what is wrong", str(read_only))
        backend.expect_chunk("a", chunk)


def _into_bad(backend: Subject, buffers: list[Any], name: str) -> None:
    code = f"get_scattered(key('a'), [])  # into {name}"
    backend.rejects(
        InvalidBufferError,
        lambda: backend.do(code, lambda: backend.backend.get_scattered(key("a"), buffers)),
        f"get_scattered into {name}",
    )
    requests = [(key("a"), buffers), (key("absent"), [bytearray(9)])]
    code = f"get_many_into([(key('a'), []), (key('absent'), [bytearray(9)])])  # into {name}"
    answers = backend.allows(
        lambda: backend.do(code, lambda: backend.backend.get_many_into(requests)), f"get_many_into into {name}"
    )
    expect(answers == [None, None], f"get_many_into to answer [None, None], into {name}", answers)


def _other(buffer: Any) -> Any:
    return np.asarray(buffer, dtype=np.uint8) != FILL if not isinstance(buffer, bytearray) else set(buffer) - {FILL}


def _named(backend: Subject, k: Any) -> dict[str, Callable[[], Any]]:
    """Every call that names a key, with `k` among sound ones."""
    b, source = backend.backend, MemoryReference()
    held, chunk = key("a"), Chunk(4, 9)
    message = Chunk(4, 9).message(k)
    calls: dict[str, Callable[[], Any]] = {
        "get_many": lambda: b.get_many([held, k]),
        "contains_many": lambda: b.contains_many([held, k]),
        "contains_prefix": lambda: b.contains_prefix([held, k]),
        "get_into": lambda: b.get_into(k, bytearray(100)),
        "get_scattered": lambda: b.get_scattered(k, [bytearray(100)]),
        "get_many_into": lambda: b.get_many_into([(held, [bytearray(200)]), (k, [bytearray(100)])]),
        "view": lambda: b.view(k).__enter__(),
        "get_tensor": lambda: b.get_tensor(k),
        "put_many": lambda: b.put_many([(message, chunk.data())]),
        "put_from": lambda: b.put_from([message], source),
        "stored_bytes": lambda: b.stored_bytes(k),
        "touch": lambda: b.touch([held, k]),
    }
    if b.capabilities.remove:
        calls["remove_many"] = lambda: b.remove_many([k, held])
    return calls


@prop(
    "OPT-10",
    "A key that is no text, empty or not encodable raises InvalidKeyError from optional methods too; nothing changes.",
    since="1.1",
)
def _unusable(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 60, 1))
    for k in (DuckKey(""), DuckKey("\ud800"), DuckKey(None), object()):
        for name, call in _named(backend, k).items():
            trial.record(f"# {name} with the unusable key {k!r}")
            if name in ("stored_bytes", "touch"):  # those may look no further than what they have
                try:
                    answer = call()
                except InvalidKeyError:
                    continue
                except Exception as error:
                    violate(f"{name} of {k!r} to raise InvalidKeyError", f"{type(error).__name__}: {error}")
                expect(answer is None, f"{name} of {k!r} to answer nothing", answer)
                continue
            backend.rejects(InvalidKeyError, call, f"{name} of the unusable key {k!r}")
            if name == "remove_many":
                backend.put("a", Chunk(3, 60, 1))
    backend.expect_model({"a": Chunk(3, 60, 1)})


@prop(
    "OPT-11",
    "An optional write that is refused leaves everything as it was: the old chunk, its metadata, what is listed.",
    since="1.1",
)
def _refused(trial: Trial) -> None:
    import torch

    subject = Ways(trial.open())
    backend = subject.subject
    for k, chunk in {"a": Chunk(3, 100, 1), "b": Chunk(4, 0)}.items():
        subject.put(Op("put", (k,), (chunk,)))
    source = MemoryReference()
    source.put(Chunk(9, 70, 3).message(key("a")), Chunk(9, 70, 3).data())
    device = getattr(backend.backend, "device", "cpu")
    wrong = Chunk(9, 70, 3).message(key("a"))
    wrong.length = 71
    unknown: Any = Chunk(9, 70, 3).message(key("a"))
    unknown.fmt = 99
    for name, message in {"a wrong length": wrong, "an unknown format": unknown}.items():
        for what, call in {
            "put_tensor": lambda m: backend.backend.put_tensor(m, torch.zeros(70, dtype=torch.uint8, device=device)),
            "put_many": lambda m: backend.backend.put_many([(m, Chunk(9, 70).data())]),
        }.items():
            trial.record(f"# {what} with metadata of {name}")
            backend.rejects(InvalidChunkError, partial(call, message), f"{what} with metadata of {name}")
            subject.finish(["a", "b", "c"])
    held = backend.backend.put_from([Chunk(9, 70, 2).message(key("a")), Chunk(9, 70, 3).message(key("c"))], source)
    trial.record("# put_from of a chunk that the source holds with other metadata, and of one that it has not")
    expect(held == [False, False], "put_from to answer [False, False]", held)
    subject.finish(["a", "b", "c"])


@prop("OPT-12", "After close every optional method raises BackendClosedError, and does nothing.", since="1.1")
def _after_close(trial: Trial) -> None:
    import torch

    backend = trial.open()
    backend.put("a", Chunk(3, 10))
    source = MemoryReference()
    source.put(Chunk(3, 10).message(key("a")), Chunk(3, 10).data())
    device = getattr(backend.backend, "device", "cpu")
    backend.close()
    calls = _named(backend, key("a"))
    calls["put_from"] = lambda: backend.backend.put_from([Chunk(3, 10).message(key("a"))], source)
    calls["put_tensor"] = lambda: backend.backend.put_tensor(
        Chunk(3, 10).message(key("a")), torch.zeros(10, dtype=torch.uint8, device=device)
    )
    # Nothing that is stored is asked for or changed by these: they may know by themselves, or do nothing.
    calls.pop("stored_bytes")
    calls["save_state"] = lambda: backend.backend.save_state(b"late")
    for name, call in calls.items():
        trial.record(f"# {name} after close")
        if name in ("touch", "save_state"):
            try:
                call()
            except BackendClosedError:
                continue
            except Exception as error:
                violate(
                    f"{name} after close to raise BackendClosedError, or nothing", f"{type(error).__name__}: {error}"
                )
            continue
        backend.rejects(BackendClosedError, call, f"{name} after close")
    source.close()


@prop(
    "OPT-13",
    "What a backend declares is well formed, and the same of each instance, at first, in use, after errors and closed.",
    since="1.1",
)
def _declares(trial: Trial) -> None:
    backend, other = trial.open(), trial.open()
    seen = [backend.backend.capabilities, other.backend.capabilities]
    backend.put("a", Chunk(3, 100))
    seen.append(backend.backend.capabilities)
    try:
        backend.put(DuckKey(""), Chunk(3, 1))
    except LmsTiersError:
        seen.append(backend.backend.capabilities)
    lends = backend.backend.lends
    backend.close()
    seen.append(backend.backend.capabilities)
    expect(all(caps == seen[0] for caps in seen), f"capabilities of {seen[0]} throughout", seen)
    caps = seen[0]
    for name in ("remove", "persistent", "tensors", "evicts", "forkable", "shared", "write_behind", "batch_stops"):
        expect(type(getattr(caps, name)) is bool, f"{name} of True or False", getattr(caps, name))
    expect(caps.policy is None or caps.evicts, "a policy to be declared only where `evicts` is", caps.policy)
    expect(type(lends) is bool, "lends of True or False", lends)
    least = 0
    for size in (0, 1, 100, *(n for power in range(9, 23) for n in ((1 << power) - 1, 1 << power, (1 << power) + 1))):
        need = other.backend.reserve_bytes(size)
        expect(type(need) is int and need >= size, f"reserve_bytes({size}) of at least {size}", need)
        expect(need >= least, f"reserve_bytes to grow with the length: of {size} at least {least}", need)
        least = need


@prop("OPT-14", "Keys of any class name the same chunk in every optional method, one by one and mixed.", since="1.1")
def _any_class(trial: Trial) -> None:
    subject = Ways(trial.open())
    pool = ("m@1@0@1f@half", "m@1@0@1f@half@7", "plain", "absent")
    for i, k in enumerate(pool[:3]):
        message = Chunk(i + 3, 40 + i, i).message(spelled([k], 1)[0])
        trial.record(f"# put under another library's key {k!r}")
        subject.backend.put_many([(message, Chunk(i + 3, 40 + i, i).data())])
        subject.model[k] = Chunk(i + 3, 40 + i, i)
    for how in (0, 0b1111, 0b0101, 0b1010):
        for kind in ("get_many", "contains_many", "contains_prefix", "view", "get_into", "touch"):
            subject.step(Op(kind, pool, how=how))
    if trial.caps.remove:
        subject.remove_many(Op("remove_many", (pool[0], pool[3]), how=0b11))
    subject.finish(pool)
