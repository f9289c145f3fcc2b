"""GET: what an answer looks like, and the ways to read."""

from __future__ import annotations

from functools import partial

import numpy as np

from lms_conformance.chunks import KIB, Chunk, raw, show
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_tiers.errors import InvalidBufferError
from lms_tiers.messages import MemoryFormat

SIZES = (0, 1, 100, 4097, 300 * KIB + 1)


@prop("GET-01", "A key that is not held is answered with None, not with an error.")
def _absent(trial: Trial) -> None:
    backend = trial.open()
    answer = backend.allows(lambda: backend.get("a"), "get of an absent key")
    expect(answer is None, "None", answer, "assert backend.get(key('a')) is None")
    backend.put("b", Chunk(3, 5))
    answer = backend.allows(lambda: backend.get("a"), "get of an absent key")
    expect(answer is None, "None", answer, "assert backend.get(key('a')) is None")


@prop("GET-02", "Reading changes nothing: the tenth get answers what the first did.")
def _repeatable(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 5000))
    for _ in range(10):
        backend.expect_chunk("a", Chunk(3, 5000))


@prop(
    "GET-03", "An answer is well formed: contiguous bytes-like data of `length` bytes, a torch dtype and a torch.Size."
)
def _well_formed(trial: Trial) -> None:
    import torch

    backend = trial.open()
    for size in SIZES:
        backend.put("a", Chunk(3, size, 1))
        obj = backend.get("a")
        if obj is None:
            violate("a chunk", "None")
        try:
            view = memoryview(obj.data)
        except TypeError:
            violate("bytes-like data", type(obj.data).__name__)
        expect(view.c_contiguous, "C-contiguous data", "strided data")
        expect(view.nbytes == size == obj.length, f"{size} bytes and length {size}", f"{view.nbytes} and {obj.length}")
        expect(isinstance(obj.fmt, MemoryFormat), "a MemoryFormat", type(obj.fmt).__name__)
        expect(isinstance(obj.dtype, torch.dtype), "a torch.dtype", type(obj.dtype).__name__)
        expect(isinstance(obj.shape, torch.Size), "a torch.Size", type(obj.shape).__name__)


@prop(
    "GET-04", "get_into fills the caller's buffer with exactly the chunk and answers its metadata; None where absent."
)
def _into(trial: Trial) -> None:
    backend = trial.open()
    for size in SIZES:
        chunk = Chunk(3, size, 3)
        backend.put("a", chunk)
        buffer = bytearray(b"\xa5" * (size + 7))
        meta = backend.get_into("a", buffer)
        if meta is None:
            violate("get_into to answer the metadata", "None")
        dtype, fmt, shape = chunk.described
        expect(
            (meta.length, meta.dtype, meta.fmt, tuple(meta.shape)) == (size, dtype, fmt, shape),
            f"metadata {(size, dtype, fmt, shape)}", meta,
        )  # fmt: skip
        expect(buffer[:size] == chunk.bytes(), f"the bytes of {chunk!r} in the buffer", show(buffer))
        expect(buffer[size:] == b"\xa5" * 7, "the rest of the buffer untouched", show(buffer[size:]))
    buffer = bytearray(4)
    expect(backend.get_into("absent", buffer) is None, "None for an absent key", "metadata")
    expect(buffer == bytes(4), "an untouched buffer for an absent key", show(buffer))


@prop(
    "GET-05",
    "get_into with a buffer that is too small, read-only or strided raises InvalidBufferError and leaves it alone.",
)
def _into_bad(trial: Trial) -> None:
    backend = trial.open()
    for size in (1, 100, 300 * KIB):
        backend.put("a", Chunk(3, size))
        base = np.full(2 * size, 0xA5, dtype=np.uint8)
        small = bytearray(b"\xa5" * (size - 1))
        cases = {"too small": small, "read-only": bytes(size), "strided": base[::2]}
        for name, buffer in cases.items():
            if name == "strided" and size == 1:
                continue  # one element is contiguous
            backend.rejects(
                InvalidBufferError, partial(backend.get_into, "a", buffer), f"get_into a buffer that is {name}"
            )
        expect(small == b"\xa5" * (size - 1), "the small buffer untouched", show(small))
        expect(bool((base == 0xA5).all()), "the strided buffer untouched", "written to")


@prop("GET-06", "view lends the chunk's bytes in order, and None where the key is absent.")
def _view(trial: Trial) -> None:
    backend = trial.open()
    for size in SIZES:
        chunk = Chunk(5, size, 2)
        backend.put("a", chunk)
        with backend.view("a") as view:
            if view is None:
                violate("a view", "None")
            joined = b"".join(bytes(memoryview(b).cast("B")) for b in view.buffers if memoryview(b).nbytes)
            expect(joined == chunk.bytes(), f"the bytes of {chunk!r}", show(joined))
            dtype, fmt, shape = chunk.described
            found = (view.meta.length, view.meta.dtype, view.meta.fmt, tuple(view.meta.shape))
            expect(found == (size, dtype, fmt, shape), f"metadata {(size, dtype, fmt, shape)}", found)
    with backend.view("absent") as view:
        expect(view is None, "None for an absent key", "a view")


@prop("GET-07", "Two chunks read one after the other are both right when both are in hand.")
def _two_in_hand(trial: Trial) -> None:
    backend = trial.open()
    for size in (64, 5000, 300 * KIB):
        backend.put("a", Chunk(3, size))
        backend.put("b", Chunk(4, size))
        first, second = backend.get("a"), backend.get("b")
        if first is None or second is None:
            violate("two chunks", "None")
        expect(raw(first) == Chunk(3, size).bytes(), "the first chunk unchanged by the second get", show(first.data))
        expect(raw(second) == Chunk(4, size).bytes(), "the second chunk", show(second.data))
