"""Mutants that leak, hold the interpreter, or do not survive a fork."""

from __future__ import annotations

import os
import threading
from typing import Any, Optional

from lms_conformance.zoo.memory import MemoryReference
from lms_conformance.zoo.mutant import Wrapper, mutant
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj


@mutant("forgets-in-a-child", "FRK-01")
class ForgetsInChild(MemoryReference):
    """Declares that it works in a forked child, and is empty there."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Nothing, in a child."""
        return None if self._pid != os.getpid() else super().get(key)


@mutant("leaks-a-descriptor-per-open", "RES-01")
class LeaksPerOpen(Wrapper):
    """Opens a descriptor that close does not close."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._fd = os.open("/dev/null", os.O_RDONLY)


@mutant("leaks-a-descriptor-per-get", "RES-02")
class LeaksPerGet(Wrapper):
    """Opens a descriptor with each get."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._fds: list[int] = []

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """And open one."""
        self._fds.append(os.open("/dev/null", os.O_RDONLY))
        return self.inner.get(key)

    def close(self) -> None:
        """At last."""
        self.inner.close()
        while self._fds:
            os.close(self._fds.pop())


@mutant("leaves-a-thread", "RES-03")
class LeavesThread(Wrapper):
    """Leaves a thread behind on close."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        threading.Thread(target=threading.Event().wait, args=(60,), daemon=True, name="left-behind").start()


@mutant("keeps-every-version", "RES-04")
class KeepsVersions(Wrapper):
    """Keeps every version of every chunk."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._versions: list[bytes] = []

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And keep it."""
        self._versions.append(bytes(kv_chunk_bytes))
        self.inner.put(client_meta, kv_chunk_bytes)


@mutant("keeps-every-answer", "RES-05")
class KeepsAnswers(Wrapper):
    """Keeps a copy of every answer."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._answers: list[bytearray] = []

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """And keep it."""
        obj = self.inner.get(key)
        if obj is not None:
            self._answers.append(bytearray(obj.data))
        return obj


@mutant("leaves-shared-memory", "RES-06")
class LeavesSharedMemory(Wrapper):
    """Makes a name in shared memory that close does not unlink."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        os.close(os.open(f"/dev/shm/lms-zoo-{os.getpid()}-{id(self)}", os.O_CREAT | os.O_RDWR, 0o600))


def _busy(data: Any) -> None:
    """Some hundredths of a second in which no other thread can run Python."""
    bytes(data).translate(bytes(range(256)))
    sum(memoryview(data).cast("B")[: 1 << 21])


@mutant("holds-the-interpreter-in-put", "RES-07")
class HoldsInPut(Wrapper):
    """Sums up each byte of a put in one call that holds the interpreter."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Summed up."""
        self.inner.put(client_meta, kv_chunk_bytes)
        _busy(kv_chunk_bytes)


@mutant("holds-the-interpreter-in-get", "RES-08")
class HoldsInGet(Wrapper):
    """Sums up each byte of a get in one call that holds the interpreter."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Summed up."""
        obj = self.inner.get(key)
        if obj is not None and obj.length:
            _busy(obj.data)
        return obj
