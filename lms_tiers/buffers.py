"""Buffers of callers: checked before they are written to, and copied without keeping other threads waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from lms_tiers.errors import InvalidBufferError

if TYPE_CHECKING:
    import torch

#: Copies of this many bytes take longer than giving the interpreter's lock away and getting it back.
_LARGE_COPY: Final = 1 << 17


def copy_bytes(target: memoryview, source: memoryview) -> None:
    """Copy between buffers of equal length; large copies let other threads run (a memoryview's own do not)."""
    if target.nbytes < _LARGE_COPY:
        target[:] = source
        return
    import numpy as np

    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def scatter_bytes(sources: Sequence[memoryview], targets: Sequence[memoryview]) -> None:
    """Copy `sources`, one after another, over `targets`, which together have room; see `copy_bytes`."""
    pending = iter(targets)
    target, at = memoryview(b""), 0
    for source in sources:
        begin = 0
        while begin < len(source):
            if at == len(target):
                target, at = next(pending), 0
                continue
            size = min(len(source) - begin, len(target) - at)
            copy_bytes(target[at : at + size], source[begin : begin + size])
            begin += size
            at += size


def leading_bytes(buffers: Sequence[memoryview], length: int) -> list[memoryview]:
    """The first `length` bytes of `buffers`, which have as many together; those that are not needed are left out."""
    taken: list[memoryview] = []
    for buffer in buffers:
        if length <= 0:
            break
        if len(buffer):
            taken.append(buffer if len(buffer) <= length else buffer[:length])
            length -= len(buffer)
    return taken


def room_for(buffers: Sequence[Any], length: int) -> list[memoryview]:
    """The first `length` bytes of writable `buffers`, one after another, none of them empty.

    Raises
    ------
    InvalidBufferError
        One is read-only or not C-contiguous, or together they are too small.
    """
    views = [writable_bytes(buffer, 0) for buffer in buffers]
    room = sum(map(len, views))
    if room < length:
        raise InvalidBufferError(f"the destinations have {room} bytes, the chunk {length}.")
    return leading_bytes(views, length)


def writable_bytes(buffer: Any, length: int) -> memoryview:
    """`buffer` as writable bytes, or `InvalidBufferError` that says what is wrong with it."""
    try:
        view = memoryview(buffer)
    except TypeError:
        raise InvalidBufferError(f"{type(buffer).__name__} offers no buffer.") from None
    if view.readonly or not view.c_contiguous:
        raise InvalidBufferError("the destination must be writable and C-contiguous.")
    if view.nbytes < length:
        raise InvalidBufferError(f"the destination has {view.nbytes} bytes, the chunk {length}.")
    # One without bytes may have any shape, and a view of such a shape cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def tensor_bytes(out: torch.Tensor, length: int) -> torch.Tensor:
    """`out` as a flat uint8 tensor over the same memory, or `InvalidBufferError`."""
    import torch

    if not out.is_contiguous():
        raise InvalidBufferError("`out` must be contiguous.")
    if out.nbytes < length:
        raise InvalidBufferError(f"`out` has {out.nbytes} bytes, the chunk {length}.")
    return out.detach().reshape(-1).view(torch.uint8)


def own_bytes(data: Any) -> bytearray:
    """The bytes of a put as a buffer of our own.

    A `bytearray` is taken over as it is (`put` passes ownership); anything else that offers the buffer protocol,
    read-only, strided or typed, is copied in C order.
    """
    if type(data) is bytearray:
        return data
    view = memoryview(data)
    return bytearray(view if view.contiguous and view.format == "B" else view.tobytes("C"))
