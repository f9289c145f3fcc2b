"""ALI, by all ways: what any of them answered is the caller's and stays; what was handed over is as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from lms_conformance.chunks import KIB, Chunk, key, raw
from lms_conformance.reading import flat
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_conformance.zoo.memory import MemoryReference

SIZES = (16, 5000, 300 * KIB)


def _of(seed: int, size: int) -> Chunk:
    return Chunk(seed, size, meta=("uint8", "KV_2LTD", (size,)))


#: Ways to answer a chunk that stays in the caller's hands.
_ANSWERS: dict[str, Callable[[Any, Any], Any]] = {
    "get": lambda b, k: b.get(k),
    "get_many": lambda b, k: b.get_many([k])[0],
    "get_tensor": lambda b, k: b.get_tensor(k),
}


def _bytes(answer: Any) -> bytes:
    return bytes(raw(answer)) if hasattr(answer, "fmt") else flat(answer)


@prop(
    "ALI-09",
    "What any way answered stays as it was, overwritten, removed or closed, and is no way to change what is stored.",
    since="1.1",
)
def _answers(trial: Trial) -> None:
    for size in SIZES:
        trial.anew()
        backend, chunk = trial.open(), _of(3, size)
        backend.put("a", chunk)
        backend.put("b", _of(4, size))
        held: dict[str, Any] = {name: call(backend.backend, key("a")) for name, call in _ANSWERS.items()}
        trial.ran(len(held))
        for name in _ANSWERS:
            _write_into(_ANSWERS[name](backend.backend, key("b")))
            trial.record(f"# the caller writes into what {name} of b answered, where it can")
            backend.expect_chunk("b", _of(4, size), "the chunk as it was put")
        backend.put("a", _of(5, size))
        if trial.caps.remove:
            backend.remove("a")
        backend.put("c", _of(6, size))
        backend.close()
        for name, answer in held.items():
            expect(_bytes(answer) == chunk.bytes(), f"what {name} answered to stay {chunk!r}", "other bytes now")


def _write_into(answer: Any) -> None:
    if answer is None:
        violate("a chunk", "None")
    if not hasattr(answer, "fmt"):
        answer.zero_()
    elif not (view := memoryview(answer.data)).readonly:
        view.cast("B")[:] = bytes(view.nbytes)


def _fields(message: Any) -> tuple[Any, ...]:
    told = (getattr(message, name) for name in ("command", "length", "fmt", "dtype"))
    return (*told, tuple(message.shape), message.key.to_string())


def _put(b: Any, data: Any, message: Any) -> None:
    b.put(message, data)


def _put_many(b: Any, data: Any, message: Any) -> None:
    b.put_many([(message, data)])


def _put_from(b: Any, source: Any, message: Any) -> None:
    b.put_from([message], source)


def _put_tensor(b: Any, tensor: Any, message: Any) -> None:
    b.put_tensor(message, tensor)


@prop(
    "ALI-10",
    "A write leaves what it was handed as it was: messages, tensors, other stores, and every buffer but a bytearray.",
    since="1.1",
)
def _handed(trial: Trial) -> None:
    import torch

    backend, source = trial.open(), MemoryReference()
    b: Any = backend.backend
    device = getattr(backend.backend, "device", "cpu")
    for size in SIZES:
        chunk = _of(3, size)
        source.put(chunk.message(key("c")), chunk.data())
        owner, array = bytearray(chunk.bytes()), np.frombuffer(chunk.bytes(), np.uint8).copy()
        tensor = torch.frombuffer(bytearray(chunk.bytes()), dtype=torch.uint8).to(device)
        writes: dict[str, tuple[str, Callable[[Any], Any]]] = {
            "put of a bytearray": ("a", partial(_put, b, chunk.data())),
            "put of a memoryview": ("a", partial(_put, b, memoryview(owner))),
            "put of an array": ("b", partial(_put, b, array)),
            "put_many": ("b", partial(_put_many, b, memoryview(owner))),
            "put_from": ("c", partial(_put_from, b, source)),
            "put_tensor": ("d", partial(_put_tensor, b, tensor)),
        }
        for name, (k, write) in writes.items():
            message = chunk.message(key(k))
            before = _fields(message)
            trial.record(f"# {name} of {size} bytes under {k!r}")
            write(message)
            trial.ran(1)
            _same_message(name, before, message)
        for what, now in (("memoryview", bytes(owner)), ("array", array.tobytes()), ("tensor", flat(tensor))):
            expect(now == chunk.bytes(), f"the caller's {what} of {size} bytes as it was", "other bytes")
        _whole(backend, chunk)
    source.close()


def _same_message(name: str, before: tuple[Any, ...], message: Any) -> None:
    try:
        now = _fields(message)
    except (AttributeError, TypeError) as error:
        violate(f"{name} to leave its message as it was: {before}", error)
    expect(now == before, f"{name} to leave its message as it was: {before}", now)


def _whole(backend: Subject, chunk: Chunk) -> None:
    for k in "abcd":
        backend.expect_chunk(k, chunk)
