"""Keys, messages, bytes and a race, for the tests of backends over an arena."""

from __future__ import annotations

import random
import threading

import torch

from lms_tiers.device import parse_device
from lms_tiers.errors import BackendClosedError
from lms_tiers.factory import open_backend
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat

MIB = 1 << 20
PAGE = 4096


def key(name: object) -> CacheEngineKey:
    return CacheEngineKey.from_string(f"chunk {name}")


def message(name: object, length: int, dtype: torch.dtype | None = torch.uint8) -> ClientMetaMessage:
    size = dtype.itemsize if dtype is not None else 1
    shape = torch.Size([length // size])
    return ClientMetaMessage(ClientCommand.PUT, key(name), length, MemoryFormat.KV_2LTD, dtype, shape)


def content(seed: int, length: int) -> bytearray:
    return bytearray(random.Random(seed).randbytes(length))


def open_text(device: str) -> LMSBackendInterface:
    return open_backend(parse_device(device).tiers[0])


def close_beside_calls(backend: LMSBackendInterface) -> list[BaseException]:
    """Close `backend` while three threads put and get: what they met besides whole chunks and a closed backend."""
    started = threading.Barrier(4)
    unexpected: list[BaseException] = []

    def work(seed: int) -> None:
        started.wait()
        try:
            while True:
                backend.put(message(seed, 200_000), bytearray([seed]) * 200_000)
                found = backend.get(key(seed))
                assert found is not None
                assert set(bytes(found.data)) == {seed}
                assert backend.get_tensor(key(seed)) is not None
        except BackendClosedError:
            return
        except BaseException as error:
            unexpected.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    backend.close()
    for thread in threads:
        thread.join()
    return unexpected
