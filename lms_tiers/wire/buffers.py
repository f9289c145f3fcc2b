"""Receive buffers: a bytearray whose bytes are not zeroed first, because the socket is about to overwrite them."""

from __future__ import annotations

import ctypes
from typing import Final

_allocate: Final = ctypes.PyDLL(None).PyByteArray_FromStringAndSize
_allocate.restype = ctypes.py_object
_allocate.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)


def receive_buffer(length: int) -> bytearray:
    """A bytearray of `length` bytes of any content; never hand one out before every byte is overwritten.

    Raises
    ------
    MemoryError
    """
    buffer: bytearray = _allocate(None, length)
    return buffer
