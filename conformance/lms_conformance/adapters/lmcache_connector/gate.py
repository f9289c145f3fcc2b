"""Holds up threads that come to the bytes of an object of LMCache's memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Final


class Gate:
    """Holds up each thread that comes to the bytes of one object by its accessors, until it is opened.

    Parameters
    ----------
    obj : TensorMemoryObj
        What is watched from now on.
    free : iterable of threading.Thread
        These are not held up.
    """

    #: By which a thread comes to the bytes.
    ACCESSORS: Final = ("byte_array", "tensor", "raw_tensor", "get_tensor", "data_ptr", "raw_data")

    def __init__(self, obj: Any, free: Iterable[threading.Thread]) -> None:
        self._free = {thread.ident for thread in free}
        self._open = threading.Event()
        self.came = threading.Event()  #: Some thread is held up, or was.
        gate, kind = self, type(obj)

        class Watched(kind):  # type: ignore[valid-type, misc]
            def __getattribute__(self, name: str) -> Any:
                if name in Gate.ACCESSORS:
                    gate._pass()
                return super().__getattribute__(name)

        obj.__class__ = Watched

    def _pass(self) -> None:
        if threading.get_ident() not in self._free and not self._open.is_set():
            self.came.set()
            self._open.wait()

    def open(self) -> None:
        """From now on everybody passes."""
        self._open.set()
