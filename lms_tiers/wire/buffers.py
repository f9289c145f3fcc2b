"""Buffers of a socket: to receive into, whose bytes are not zeroed first because they are about to be overwritten; and
what is left of those that are being sent.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_allocate: Final = ctypes.PyDLL(None).PyByteArray_FromStringAndSize
_allocate.restype = ctypes.py_object
_allocate.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)

_PAGE: Final = 4096
_MADV_POPULATE_WRITE: Final = 23

#: Bytes from which on it pays to have all pages of a buffer made by one system call.
_MANY_PAGES: Final = 32 * _PAGE

_advise: Final = ctypes.CDLL(None).madvise if sys.platform == "linux" else None
if _advise is not None:
    _advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def receive_buffer(length: int) -> bytearray:
    """A bytearray of `length` bytes of any content; never hand one out before every byte is overwritten.

    Raises
    ------
    MemoryError
    """
    buffer: bytearray = _allocate(None, length)
    return buffer


def paged_buffer(length: int) -> bytearray:
    """The same, for bytes that are on their way already: its memory is there, where the kernel can do that at once.

    A page that is made when a byte first arrives costs more than the copy of its bytes. Where it cannot be done at once
    (Linux before 5.14, not enough memory) pages come as they are written.
    """
    buffer = receive_buffer(length)
    if length >= _MANY_PAGES and _advise is not None:
        first = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        begin = -(-first // _PAGE) * _PAGE
        _advise(begin, (first + length) // _PAGE * _PAGE - begin, _MADV_POPULATE_WRITE)
    return buffer


def drop_sent(pending: list[memoryview], sent: int) -> None:
    """Take the first `sent` bytes off `pending`, which are views of bytes."""
    whole = 0
    for buffer in pending:
        if sent < len(buffer):
            break
        sent -= len(buffer)
        whole += 1
    del pending[:whole]
    if sent:
        pending[0] = pending[0][sent:]
