"""PUT: the bytes and metadata that were put are the bytes and metadata that come back."""

from __future__ import annotations

import array
import struct
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lms_conformance.chunks import KIB, KINDS, MIB, Chunk, key, raw
from lms_conformance.programs import chunks
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_tiers.errors import InvalidChunkError, ValueTooLargeError
from lms_tiers.messages import DTYPE_NAMES, ClientCommand, ClientMetaMessage, MemoryFormat, dtype_name


@prop("PUT-01", "Bytes and metadata of any chunk come back exactly.", given=chunks)
def _exact(trial: Trial, chunk: Chunk) -> None:
    backend = trial.open()
    backend.put("a", chunk)
    backend.expect_chunk("a", chunk)


@prop("PUT-02", "Chunks one byte below, at and above each page, part and power of two come back exactly.")
def _boundaries(trial: Trial) -> None:
    backend = trial.open()
    edges = (
        512,
        KIB,
        4 * KIB,
        4 * KIB - 16,
        16 * KIB,
        64 * KIB,
        64 * KIB - 16,
        128 * KIB,
        256 * KIB,
        256 * KIB - 16,
        MIB,
    )
    for edge in edges:
        for size in (edge - 1, edge, edge + 1):
            backend.put("a", Chunk(3, size))
            backend.expect_chunk("a", Chunk(3, size))


@prop("PUT-03", "A chunk of 32 MiB comes back exactly.")
def _largest(trial: Trial) -> None:
    backend = trial.open(capacity=256 * MIB)
    for size in (32 * MIB, 16 * MIB + 1):
        backend.allows(partial(backend.put, "a", Chunk(3, size, 1)), f"put of {size} bytes")
        backend.expect_chunk("a", Chunk(3, size, 1))


@prop("PUT-04", "Every dtype, format and shape of 0 to 4 dimensions comes back as it was, zeros and ones included.")
def _metadata(trial: Trial) -> None:
    import torch

    backend = trial.open()
    dtypes = [name for name in DTYPE_NAMES if name is None or hasattr(torch, name)]
    shapes = [
        (),
        (0,),
        (1,),
        (5, 0, 0, 0),
        (2, 0),
        (1, 1, 1, 1),
        (2, 3),
        (2, 3, 4),
        (2, 3, 4, 1),
        (2**31, 1),
        (2**40, 2, 1, 1),
    ]
    cases: list[tuple[str | None, MemoryFormat, tuple[int, ...]]] = []
    cases += [(name, MemoryFormat.KV_2LTD, (2, 3)) for name in dtypes]
    cases += [("bfloat16", fmt, (2, 3)) for fmt in MemoryFormat]
    cases += [("bfloat16", MemoryFormat.KV_2LTD, shape) for shape in shapes]
    for i, (dtype, fmt, shape) in enumerate(cases):
        chunk = Chunk(3, 12, meta=(dtype, fmt.name, shape))
        backend.put(f"k{i % 3}", chunk)
        backend.expect_chunk(f"k{i % 3}", chunk)


@prop("PUT-05", "Bit patterns of NaN, infinity and negative zero come back as they were.")
def _payloads(trial: Trial) -> None:
    backend = trial.open()
    fp32 = struct.pack("<6I", 0x7FC00001, 0xFFC0DEAD, 0x7F800001, 0x7F800000, 0x80000000, 0x00000001)
    bf16 = struct.pack("<6H", 0x7FC1, 0xFFFF, 0x7F81, 0x7F80, 0x8000, 0x0001)
    fp16 = struct.pack("<6H", 0x7E01, 0xFFFF, 0x7C01, 0x7C00, 0x8000, 0x0001)
    fp64 = struct.pack("<2Q", 0x7FF8000000000001, 0xFFF0000000000BAD)
    for name, data in (
        ("float32", fp32),
        ("bfloat16", bf16),
        ("float16", fp16),
        ("float64", fp64),
        ("bool", b"\x00\x01\x02\xff"),
    ):
        for repeat in (1, 700):
            chunk = Chunk(literal=data * repeat, meta=(name, "KV_2LTD", (len(data) * repeat,)))
            backend.put("a", chunk)
            backend.expect_chunk("a", chunk)


@prop("PUT-06", "A chunk of no bytes is a chunk: present, listed, and empty.")
def _empty(trial: Trial) -> None:
    backend = trial.open()
    for kind in (0, 7, 8):
        backend.put("a", Chunk(3, 0, kind))
        obj = backend.expect_chunk("a", Chunk(3, 0, kind), "a chunk of no bytes")
        expect(raw(obj).nbytes == 0 and obj.length == 0, "a chunk of no bytes", obj.length)
        found = backend.contains("a")
        expect(found is True, "contains of an empty chunk to answer True", found, "assert backend.contains(key('a'))")
        backend.expect_keys(["a"])


def _buffers(data: bytes) -> dict[str, Any]:
    words = np.frombuffer(data, dtype="<u2")
    wide = np.zeros((len(words), 3), dtype="<u2")
    wide[:, 1] = words
    return {
        "bytes": data,
        "memoryview": memoryview(bytearray(data)),
        "read-only memoryview": memoryview(data),
        "array of 16-bit words": array.array("H", data),
        "strided numpy view": wide[:, 1],
        "reversed memoryview": memoryview(data[::-1])[::-1],
        "two-dimensional transposed array": np.frombuffer(data, dtype=np.uint8).reshape(-1, 4).T.copy().T,
    }


@prop("PUT-07", "Any buffer can be put: its bytes in C order are stored.")
def _any_buffer(trial: Trial) -> None:
    backend = trial.open()
    chunk = Chunk(3, 240, 1)
    for name, buffer in _buffers(chunk.bytes()).items():
        k = f"from {name}"
        backend.allows(partial(backend.put, k, chunk, buffer, f"<{name}>"), f"put of a {name}")
        backend.expect_chunk(k, chunk, f"the bytes of the {name} in C order")


@prop("PUT-08", "Metadata whose length is not that of the bytes raises InvalidChunkError, and the old chunk stays.")
def _length(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 100))
    for k in ("a", "b"):
        for claimed, given in ((10, 9), (10, 11), (10, 0), (0, 10), (-5, 5)):
            message = Chunk(4, max(claimed, 0)).message(key(k))
            message.length = claimed
            backend.rejects(
                InvalidChunkError,
                partial(backend.put, k, Chunk(4, given), message=message),
                f"put of {given} bytes with metadata that says {claimed}",
            )
    backend.expect_model({"a": Chunk(3, 100)}, ["b"])


@prop(
    "PUT-09", "Metadata that cannot be stored (unknown dtype or format, a shape of no sizes) raises InvalidChunkError."
)
def _unknown(trial: Trial) -> None:
    import torch

    backend = trial.open()
    backend.put("a", Chunk(3, 100))

    def message(fmt: Any = MemoryFormat.KV_2LTD, dtype: Any = torch.uint8, shape: Any = (4,)) -> ClientMetaMessage:
        return ClientMetaMessage(ClientCommand.PUT, key("a"), 4, fmt, dtype, shape)

    bad = {
        "dtype 'float17'": message(dtype="float17"),
        "dtype quint8": message(dtype=torch.quint8),
        "format 99": message(fmt=99),
        "format None": message(fmt=None),
        "shape (2, -1)": message(shape=(2, -1)),
        "shape (1.5,)": message(shape=(1.5,)),
    }
    for name, m in bad.items():
        backend.rejects(InvalidChunkError, partial(backend.put, "a", Chunk(4, 4), message=m), f"put with {name}")
    backend.expect_model({"a": Chunk(3, 100)})


@prop(
    "PUT-10",
    "A chunk over the declared limit raises ValueTooLargeError, and the old chunk stays.",
    needs=["value_limit"],
)
def _over_limit(trial: Trial) -> None:
    limit = trial.caps.max_value_bytes or 0
    expect(limit >= 32 * MIB, "max_value_bytes of at least 32 MiB", limit)
    backend = trial.open(capacity=2 * limit + 64 * MIB)
    backend.put("a", Chunk(3, 100))
    for k in ("a", "b"):
        backend.rejects(ValueTooLargeError, partial(backend.put, k, Chunk(4, limit + 1)), f"put of {limit + 1} bytes")
    backend.expect_model({"a": Chunk(3, 100)}, ["b"])


@prop("PUT-11", "Of a thousand puts none is lost.")
def _none_lost(trial: Trial) -> None:
    backend = trial.open()
    with trial.quiet("for i in range(1000):\n    backend.put(Chunk(i, 40).message(key(f'k{i}')), Chunk(i, 40).data())"):
        for i in range(1000):
            backend.put(f"k{i}", Chunk(i, 40))
        for i in range(1000):
            backend.expect_chunk(f"k{i}", Chunk(i, 40), f"put number {i}")


@prop(
    "PUT-12",
    "Chunks of KV-like, sparse and random bytes of 0 to 300 KiB come back exactly.",
    weight=0.5,
    given=lambda: st.builds(
        Chunk,
        seed=st.sampled_from((1, 9, 17, 25, *range(8))),  # half of them KV-like
        size=st.integers(0, 300 * KIB) | st.integers(32 * KIB, 300 * KIB),
        kind=st.integers(0, len(KINDS) - 1),
    ),
)
def _drawn_sizes(trial: Trial, chunk: Chunk) -> None:
    backend = trial.open()
    backend.put("a", chunk)
    backend.expect_chunk("a", chunk)


@prop("PUT-13", "put reads the message by attribute: another library's message and format serve as well.")
def _duck_message(trial: Trial) -> None:
    import enum
    import types

    import torch

    theirs = enum.Enum("theirs", {"KV_2LTD": 1, "BINARY_BUFFER": 5})
    backend = trial.open()
    chunk = Chunk(3, 24, meta=("bfloat16", "KV_2LTD", (2, 1, 3, 2)))
    message = types.SimpleNamespace(
        command=1, key=key("a"), length=24, fmt=theirs(1), dtype=torch.bfloat16, shape=(2, 1, 3, 2), location=None
    )
    backend.allows(lambda: backend.put("a", chunk, message=message), "put with another library's message")
    obj = backend.expect_chunk("a", chunk)
    expect(dtype_name(obj.dtype) == "bfloat16", "dtype bfloat16", obj.dtype)
