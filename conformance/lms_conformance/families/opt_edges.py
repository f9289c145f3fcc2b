"""OPT, at the edges: unusable keys and buffers, keys of any class, and what is declared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from lms_conformance.buffers import FILL
from lms_conformance.chunks import KIB, MIB, Chunk, DuckKey, key, show
from lms_conformance.programs import Op
from lms_conformance.reading import spelled
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_conformance.ways import Ways
from lms_conformance.zoo.memory import MemoryReference
from lms_tiers.errors import (
    InvalidBufferError,
    InvalidKeyError,
    LmsTiersError,
)
from lms_tiers.messages import CacheEngineKey


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


def naming(backend: Subject, k: Any) -> dict[str, Callable[[], Any]]:
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
        for name, call in naming(backend, k).items():
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
    "OPT-13",
    "What a backend declares is well formed, and the same of each instance, at first, in use, after errors and closed.",
    since="1.1",
)
def _declares(trial: Trial) -> None:
    backend, other = trial.open(), trial.open(capacity=64 * MIB)
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
    least, first = 0, {size: other.backend.reserve_bytes(size) for size in (1, 5000, 300 * KIB)}
    usable = other.backend.usable_bytes
    for i in range(12):
        other.put(f"k{i % 5}", Chunk(3 + i, 5000 * (i % 4), i % 8))
    now = {size: other.backend.reserve_bytes(size) for size in first}
    expect(now == first, f"reserve_bytes of the same length to be the same in use: {first}", now)
    expect(
        other.backend.usable_bytes == usable,
        f"usable_bytes to be the same in use: {usable}",
        other.backend.usable_bytes,
    )
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
    for what, keys in {
        "list_keys": subject.subject.list_keys(),
        "scan": [info.key for info in subject.subject.scan()],
    }.items():
        strange = [k for k in keys if not isinstance(k, CacheEngineKey)]
        expect(not strange, f"{what} to tell of CacheEngineKey objects", strange[:1])
    if trial.caps.remove:
        subject.remove_many(Op("remove_many", (pool[0], pool[3]), how=0b11))
    subject.finish(pool)
