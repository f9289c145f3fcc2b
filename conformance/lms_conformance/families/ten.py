"""TEN: tensors in and out, on whatever device the backend keeps them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lms_conformance.chunks import Chunk, same
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_tiers.errors import InvalidBufferError
from lms_tiers.messages import torch_dtype

if TYPE_CHECKING:
    import torch

CASES = (
    ("bfloat16", (2, 3, 16, 8)),
    ("float16", (5, 7)),
    ("float32", (64,)),
    ("uint8", (3, 1, 1, 9)),
    ("float8_e4m3fn", (2, 8)),
)


def _chunk(seed: int, dtype: str, shape: tuple[int, ...]) -> Chunk:
    import torch

    return Chunk(
        seed,
        torch.Size(shape).numel() * torch.empty(0, dtype=torch_dtype(dtype)).element_size(),
        meta=(dtype, "KV_2LTD", shape),
    )


def _tensor(chunk: Chunk, device: Any = "cpu") -> torch.Tensor:
    import torch

    dtype, _, shape = chunk.described
    kind = torch_dtype(dtype)
    assert kind is not None
    return torch.frombuffer(chunk.data(), dtype=torch.uint8).view(kind).reshape(shape).to(device)


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _expect_tensor(found: torch.Tensor | None, chunk: Chunk, what: str) -> torch.Tensor:
    dtype, _, shape = chunk.described
    if found is None:
        violate(f"{what}: a tensor", "None")
    expect(found.dtype == torch_dtype(dtype), f"{what}: dtype {dtype}", found.dtype)
    expect(tuple(found.shape) == shape, f"{what}: shape {shape}", tuple(found.shape))
    expect(_bytes(found) == chunk.bytes(), f"{what}: the bytes of {chunk!r}", "other bytes")
    return found


@prop("TEN-01", "A tensor put comes back with its dtype, shape and bytes; an absent key is None.")
def _round_trip(trial: Trial) -> None:
    backend = trial.open()
    for dtype, shape in CASES:
        chunk = _chunk(3, dtype, shape)
        backend.put_tensor("a", chunk, _tensor(chunk))
        _expect_tensor(backend.get_tensor("a"), chunk, "get_tensor")
    expect(backend.get_tensor("absent") is None, "None for an absent key", "a tensor")


@prop("TEN-02", "Bytes and tensors are one store: what was put as one is got as the other.")
def _one_store(trial: Trial) -> None:
    backend = trial.open()
    for dtype, shape in CASES:
        chunk, other = _chunk(3, dtype, shape), _chunk(4, dtype, shape)
        backend.put_tensor("a", chunk, _tensor(chunk))
        backend.expect_chunk("a", chunk, "the tensor's bytes")
        backend.put("a", other)
        _expect_tensor(backend.get_tensor("a"), other, "get_tensor after put")
        backend.expect_keys(["a"])


@prop("TEN-03", "A tensor that is not contiguous is stored in C order and stays the caller's as it was.")
def _strided(trial: Trial) -> None:
    backend = trial.open()
    chunk = _chunk(3, "bfloat16", (6, 10))
    tensor = _tensor(chunk).t().contiguous().t()
    backend.put_tensor("a", chunk, tensor, "tensor.t().contiguous().t()")
    expect(not tensor.is_contiguous() and _bytes(tensor) == chunk.bytes(), "the caller's tensor untouched", "changed")
    _expect_tensor(backend.get_tensor("a"), chunk, "get_tensor of a transposed tensor")


@prop("TEN-04", "What the caller does to its tensor after put_tensor returned does not reach the store.")
def _callers(trial: Trial) -> None:
    import torch

    backend = trial.open()
    for size in (16, 1 << 18):
        chunk = _chunk(3, "uint8", (size,))
        tensor = _tensor(chunk, _device(backend))
        if tensor.is_cuda:
            # Work queued before the call belongs to the chunk, work queued after it does not.
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):
                source = tensor.clone()
                tensor.zero_()
                torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]
                tensor.copy_(source)
                backend.put_tensor("a", chunk, tensor)
                tensor.zero_()
            stream.synchronize()
        else:
            backend.put_tensor("a", chunk, tensor)
            tensor.zero_()
        trial.record("tensor.zero_()")
        backend.expect_chunk("a", chunk, "the tensor as it was when put_tensor was called")


@prop(
    "TEN-05",
    "get_tensor fills `out` and answers it; one that does not fit raises InvalidBufferError and is left alone.",
)
def _out(trial: Trial) -> None:
    import torch

    backend = trial.open()
    chunk = _chunk(3, "bfloat16", (4, 8))
    backend.put_tensor("a", chunk, _tensor(chunk))
    out = torch.zeros(4, 8, dtype=torch.bfloat16, device=_device(backend))
    found = backend.get_tensor("a", out)
    expect(found is out, "get_tensor to answer `out` itself", type(found).__name__)
    _expect_tensor(out, chunk, "`out`")
    small = torch.zeros(31, dtype=torch.bfloat16, device=_device(backend))
    strided = torch.zeros(8, 4, dtype=torch.bfloat16, device=_device(backend)).t()
    for name, bad in {"is too small": small, "is not contiguous": strided}.items():
        backend.rejects(
            InvalidBufferError, partial(backend.get_tensor, "a", bad), f"get_tensor with an `out` that {name}"
        )
        expect(not bad.any(), "an `out` that does not fit left alone", "written to")


@prop("TEN-06", "A tensor that get_tensor returned is unchanged by overwriting, removing and reading others.")
def _unchanged(trial: Trial) -> None:
    backend = trial.open()
    chunk = _chunk(3, "float32", (8, 16))
    backend.put_tensor("a", chunk, _tensor(chunk))
    held = _expect_tensor(backend.get_tensor("a"), chunk, "get_tensor")
    other = _chunk(4, "float32", (8, 16))
    backend.put_tensor("a", other, _tensor(other))
    backend.put_tensor("b", other, _tensor(other))
    _expect_tensor(backend.get_tensor("b"), other, "get_tensor")
    if trial.caps.remove:
        backend.remove("a")
        backend.put_tensor("c", other, _tensor(other))
    _expect_tensor(held, chunk, "the tensor in hand")
    _expect_tensor(backend.get_tensor("b"), other, "get_tensor").zero_()
    trial.record("backend.get_tensor(key('b')).zero_()")
    _expect_tensor(backend.get_tensor("b"), other, "get_tensor after the reader wrote into its answer")


@prop(
    "TEN-07",
    "A chunk whose shape does not fit its length comes as a flat tensor of its dtype, or of uint8 without one.",
)
def _misfit(trial: Trial) -> None:
    import torch

    backend = trial.open()
    for chunk, dtype, count in (
        (Chunk(3, 24, meta=("bfloat16", "KV_2LTD", (2, 3))), torch.bfloat16, 12),
        (Chunk(3, 11, meta=(None, "BINARY_BUFFER", (11, 0, 0, 0))), torch.uint8, 11),
        (Chunk(3, 0, meta=("float32", "KV_2LTD", (0,))), torch.float32, 0),
    ):
        backend.put("a", chunk)
        found = backend.get_tensor("a")
        if found is None:
            violate("a tensor", "None")
        expect(
            found.dtype == dtype and found.numel() == count,
            f"{count} values of {dtype}",
            f"{found.numel()} of {found.dtype}",
        )
        expect(_bytes(found) == chunk.bytes(), f"the bytes of {chunk!r}", "other bytes")


@prop(
    "TEN-08",
    "A tensor backend takes and answers tensors on its own device, whole chunks of 8 MiB too.",
    needs=["tensors"],
)
def _device_kept(trial: Trial) -> None:
    backend = trial.open()
    chunk = _chunk(3, "bfloat16", (2, 1 << 10, 2048))
    device = _device(backend)
    backend.put_tensor("a", chunk, _tensor(chunk, device))
    found = _expect_tensor(backend.get_tensor("a"), chunk, "get_tensor")
    expect(found.device.type == device.type, f"a tensor on {device}", found.device)
    expect(same(backend.get("a"), chunk), "get to answer the same bytes", "others")
    expect(found.is_contiguous(), "a contiguous tensor", "a strided one")


def _device(backend: Subject) -> torch.device:
    import torch

    found = getattr(backend.backend, "device", None)
    return torch.device(found) if isinstance(found, (str, torch.device)) else torch.device("cpu")
