"""Chunk metadata: what is stored is what was given, whatever objects it came in."""

from __future__ import annotations

import copy
import dataclasses
import enum
import pickle
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lms_tiers import LMSLocalBackend
from lms_tiers.buffers import own_bytes
from lms_tiers.errors import FormatError, InvalidChunkError
from lms_tiers.messages import (
    DTYPE_NAMES,
    ChunkMeta,
    ClientCommand,
    ClientMetaMessage,
    LMSMemoryObj,
    MemoryFormat,
    OpaqueKey,
    namespace_of,
    over,
    torch_dtype,
)

DTYPES = [None if n is None else getattr(torch, n) for n in DTYPE_NAMES if n is None or hasattr(torch, n)]


def message(length: int, **changes: Any) -> ClientMetaMessage:
    fields = {"fmt": MemoryFormat.KV_2LTD, "dtype": torch.bfloat16, "shape": torch.Size([1, 2]), **changes}
    return ClientMetaMessage(ClientCommand.PUT, OpaqueKey("k"), length, **fields)


@given(
    length=st.integers(0, 2**40),
    fmt=st.sampled_from(MemoryFormat),
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 2**40), max_size=6),
)
def test_metadata_survives_packing_and_the_way_out(
    length: int, fmt: MemoryFormat, dtype: torch.dtype | None, shape: list[int]
) -> None:
    meta = ChunkMeta.of(message(length, fmt=fmt, dtype=dtype, shape=torch.Size(shape)), length)
    packed = meta.pack()
    assert ChunkMeta.unpack(packed + b"tail") == (meta, len(packed))
    obj = meta.memory_obj(b"")
    assert (obj.length, obj.fmt, obj.dtype, obj.shape) == (length, fmt, dtype, torch.Size(shape))


@given(shape=st.lists(st.integers(0, 2**40), max_size=6), digest=st.binary(min_size=16, max_size=16))
def test_a_namespace_is_kept_with_the_metadata_and_behind_it(shape: list[int], digest: bytes) -> None:
    plain = ChunkMeta(7, MemoryFormat.KV_2LTD, "bfloat16", tuple(shape))
    meta = plain.within(digest.hex())
    packed = meta.pack()
    assert packed == b"\2" + plain.pack()[1:] + digest
    assert len(packed) == meta.packed_bytes
    assert ChunkMeta.unpack(packed + b"tail") == (meta, len(packed))
    assert meta.within(None) == plain != meta
    assert ChunkMeta.of(meta.message(OpaqueKey("k")), 7) == meta
    obj = meta.memory_obj(b"1234567")
    assert ChunkMeta.of_obj(OpaqueKey("k"), obj) == meta
    assert namespace_of(obj) == namespace_of(over(obj, b"")) == digest.hex()
    with pytest.raises(FormatError):
        ChunkMeta.unpack(packed[:-1])


def test_metadata_without_a_namespace_are_stored_as_they_ever_were() -> None:
    meta = ChunkMeta(7, MemoryFormat.KV_2LTD, "bfloat16", (1, 2))
    assert meta.pack().hex() == "0101020207000000000000000100000000000000" + "0200000000000000"
    assert namespace_of(meta.memory_obj(b"")) is None
    assert namespace_of(message(4)) is None


@pytest.mark.parametrize("text", ["", "ab", "g" * 32, "A" * 32, "0" * 34])
def test_what_is_no_digest_is_no_namespace(text: str) -> None:
    with pytest.raises(InvalidChunkError, match="digest"):
        ChunkMeta(7, MemoryFormat.KV_2LTD, "bfloat16", (1,)).within(text)


def test_numbers_of_dtypes_in_stored_metadata_never_change() -> None:
    assert DTYPE_NAMES == (
        None, "float16", "bfloat16", "float32", "float64", "uint8", "float8_e4m3fn", "float8_e5m2", "int8",
        "int16", "int32", "int64", "bool", "float8_e4m3fnuz", "float8_e5m2fnuz", "uint16", "uint32", "uint64",
        "complex64", "complex128", "complex32", "float8_e8m0fnu", "float4_e2m1fn_x2",
    )  # fmt: skip


def test_every_number_of_this_torch_that_can_be_copied_is_a_dtype() -> None:
    found = {d for d in vars(torch).values() if isinstance(d, torch.dtype) and (d.is_floating_point or d.is_complex)}
    found |= {getattr(torch, f"{sign}int{bits}") for sign in ("u", "") for bits in (8, 16, 32, 64)}
    assert {str(dtype).removeprefix("torch.") for dtype in found} <= set(DTYPE_NAMES)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d is not None], ids=str)
def test_a_tensor_of_every_dtype_comes_back_as_one(dtype: torch.dtype) -> None:
    raw = torch.arange(64, dtype=torch.uint8) % 2  # valid bools
    tensor = raw.view(dtype).reshape(2, -1)
    meta = message(raw.nbytes, dtype=dtype, shape=tensor.shape)
    with LMSLocalBackend() as backend:
        backend.put_tensor(meta, tensor)
        found = backend.get_tensor(meta.key)
    assert found is not None
    assert (found.dtype, found.shape) == (dtype, tensor.shape)
    assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))


class TheirFormat(enum.Enum):
    KV_T2D = 2


@dataclass
class TheirMessage:
    key: object
    length: int
    fmt: TheirFormat
    dtype: torch.dtype
    shape: torch.Size


def test_messages_are_read_by_attribute_and_formats_by_number() -> None:
    theirs = TheirMessage(OpaqueKey("k"), 4, TheirFormat.KV_T2D, torch.float16, torch.Size([2]))
    assert ChunkMeta.of(theirs, 4) == ChunkMeta(4, MemoryFormat.KV_T2D, "float16", (2,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fmt": 3}, "MemoryFormat"),
        ({"fmt": ClientCommand.PUT}, None),
        ({"dtype": "float99"}, "float99"),
        ({"dtype": torch.qint8}, "qint8"),
        ({"shape": (-1, 2)}, "sizes"),
        ({"shape": (1.5,)}, "sizes"),
    ],
)
def test_metadata_that_cannot_be_stored_is_refused(changes: dict[str, Any], says: str | None) -> None:
    if says is None:
        assert ChunkMeta.of(message(4, **changes), 4).fmt is MemoryFormat.KV_2LTD  # by number, as on the wire
        return
    with pytest.raises(InvalidChunkError, match=says):
        ChunkMeta.of(message(4, **changes), 4)


def test_metadata_answers_as_the_constructors_do() -> None:
    meta = ChunkMeta(4, MemoryFormat.KV_2LTD, "bfloat16", (1, 2))
    made, given = meta.message(OpaqueKey("k")), message(4)
    assert made.dtype is torch.bfloat16
    assert isinstance(made.shape, torch.Size)
    obj, plain = meta.memory_obj(b"abcd"), LMSMemoryObj(
        bytearray(b"abcd"), 4, MemoryFormat.KV_2LTD, torch.bfloat16, torch.Size([1, 2])
    )  # fmt: skip
    for one, other in ((made, given), (obj, plain)):
        fresh = meta.message(OpaqueKey("k")) if one is made else meta.memory_obj(b"abcd")
        assert fresh == other
        for again in (copy.copy(fresh), copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh)), replace(fresh)):
            assert again == other
        assert dataclasses.asdict(fresh) == dataclasses.asdict(other)
        assert repr(fresh).replace("b'abcd'", "_") == repr(other).replace("bytearray(b'abcd')", "_")
        with pytest.raises(AttributeError, match="no attribute 'strides'"):
            _ = fresh.strides  # type: ignore[union-attr]


def test_what_a_caller_changes_in_a_message_is_what_is_stored() -> None:
    changed = ChunkMeta(4, MemoryFormat.KV_2LTD, "bfloat16", (1, 2)).message(OpaqueKey("k"))
    changed.dtype = torch.int8
    assert ChunkMeta.of(changed, 4) == ChunkMeta(4, MemoryFormat.KV_2LTD, "int8", (1, 2))
    changed.shape = torch.Size([4])
    assert ChunkMeta.of(changed, 4) == ChunkMeta(4, MemoryFormat.KV_2LTD, "int8", (4,))


def test_another_buffer_of_a_chunk_keeps_what_is_said_of_it() -> None:
    obj = ChunkMeta(4, MemoryFormat.KV_2LTD, "bfloat16", (1, 2)).memory_obj(b"abcd")
    obj.shape = torch.Size([2])
    view: Any = memoryview(obj.data)
    assert over(obj, view) == replace(obj, data=view)
    assert over(obj, view).data is view
    theirs: Any = SimpleNamespace(length=4, fmt=obj.fmt, dtype=torch.bfloat16, shape=torch.Size([2]))
    assert over(theirs, view) == over(obj, view)


def test_the_bytes_of_a_dtype_that_this_torch_lacks_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "complex32")
    torch_dtype.cache_clear()
    meta = ChunkMeta(4, MemoryFormat.KV_2LTD, "complex32", (1,))
    with LMSLocalBackend() as backend:
        backend.put(meta.message(OpaqueKey("k")), bytearray(b"abcd"))
        found = backend.get(OpaqueKey("k"))
    assert found is not None
    assert found.data == b"abcd"
    with pytest.raises(FormatError, match="'complex32'"):
        _ = found.dtype


def test_equal_metadata_is_one_object_whichever_way_it_came() -> None:
    made = ChunkMeta(4, MemoryFormat.BINARY, "uint8", (2, 2))
    of_message = ChunkMeta.of(made.message(OpaqueKey("k")), 4)
    assert of_message == made
    assert ChunkMeta.unpack(made.pack())[0] is of_message
    assert made.within("ab" * 16).within(None) is of_message
    assert ChunkMeta.of(message(4, fmt=made.fmt, dtype=torch.uint8, shape=torch.Size([2, 2])), 4) is of_message


@pytest.mark.parametrize("change", [{"dtype": "float3"}, {"shape": (-1,)}, {"shape": ("2",)}])
def test_metadata_made_by_hand_that_cannot_be_stored_is_refused(change: dict[str, Any]) -> None:
    made = replace(ChunkMeta(4, MemoryFormat.BINARY, "uint8", (4,)), **change)
    with pytest.raises(InvalidChunkError):
        ChunkMeta.of(made.message(OpaqueKey("k")), 4)


def test_metadata_is_not_equal_to_what_differs_in_anything() -> None:
    made = ChunkMeta(4, MemoryFormat.BINARY, "uint8", (4,))
    others: list[dict[str, Any]] = [
        {"length": 5},
        {"fmt": MemoryFormat.KV_2LTD},
        {"dtype": None},
        {"shape": (2, 2)},
        {"namespace": "ab" * 16},
    ]
    assert all(replace(made, **other) != made for other in others)
    assert replace(made) == made
    assert hash(replace(made)) == hash(made)
    assert made != (4, MemoryFormat.BINARY, "uint8", (4,), None)


def test_a_length_that_differs_from_the_bytes_is_refused() -> None:
    with pytest.raises(InvalidChunkError, match="says 5 bytes, 4 were given"):
        ChunkMeta.of(message(5), 4)


@given(st.binary(max_size=40))
def test_damaged_metadata_is_a_format_error_or_metadata(data: bytes) -> None:
    try:
        meta, size = ChunkMeta.unpack(data)
    except FormatError:
        return
    assert meta.pack() == data[:size] or data[1:3] != meta.pack()[1:3]


def test_other_forms_of_metadata_are_refused() -> None:
    packed = bytearray(ChunkMeta(1, MemoryFormat.BINARY, None, (1,)).pack())
    packed[0] = 9
    with pytest.raises(FormatError, match="form 9"):
        ChunkMeta.unpack(bytes(packed))


def test_a_bytearray_is_taken_over_and_anything_else_is_copied() -> None:
    mine = bytearray(b"abcd")
    assert own_bytes(mine) is mine
    view = memoryview(mine)
    assert own_bytes(view) == mine
    assert own_bytes(view) is not mine
    assert own_bytes(view[::2]) == b"ac"
    assert own_bytes(torch.tensor([1, 2], dtype=torch.int16).numpy()) == b"\1\0\2\0"
