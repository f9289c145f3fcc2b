"""A door as SGLang's threads drive it: over SGLang's own host pools where they are there, else over a small double."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lms_conformance.adapters.driven import CANARY, content
from lms_conformance.adapters.hicache import pools
from lms_conformance.adapters.hicache.drive import name

from lms_tiers.errors import LmsTiersError
from tests.doors.sglang import double

#: Whether SGLang itself is there (`make doors`).
REAL = os.environ.get("LMS_DOORS_ENGINE") == "sglang"

LMDB = "lmdb:{path}?capacity=64MiB&codec=raw&sync=none"
LAYOUTS = (*pools.LAYOUTS, *(["page_unified"] if not REAL or pools.unified() else []))
PAGE, PAGES = 4, 16


@pytest.fixture(scope="package", autouse=True)
def engine() -> Iterator[None]:
    with nullcontext() if REAL else double.installed():
        yield


def storage() -> Any:
    """SGLang's module of storages."""
    import sglang.srt.mem_cache.hicache_storage as module

    return module


def config(extra: dict[str, Any] | None = None, **changes: Any) -> Any:
    """What SGLang tells a storage of a rank."""
    return pools.config({} if extra is None else extra, **changes)


def pool_of(
    layout: str = "page_first", dtype: torch.dtype = torch.bfloat16, layers: int = 3, page_size: int = PAGE,
    pages: int = PAGES, latent: bool = False,
) -> Any:  # fmt: skip
    """A host pool full of canaries."""
    made: ModuleType = pools if REAL else double
    pool = (made.mla if latent else made.mha)(layout, dtype, layers, page_size, pages, 8)
    pool.kv_buffer.view(torch.uint8).fill_(CANARY)
    return pool


def transfer(pool: str, keys: list[int], slots: Any = None, trailing: bool = False) -> Any:
    module = storage()
    policy = module.PoolHitPolicy.TRAILING_PAGES if trailing else module.PoolHitPolicy.ALL_PAGES
    return module.PoolTransfer(
        name=module.PoolName(pool), keys=[name(key) for key in keys], host_indices=slots, hit_policy=policy
    )


def chunk(key: int, size: int) -> bytes:
    return content(key, size)


def Pieces(pages: int = PAGES) -> pools.States:  # a pool
    """A pool of states beside the model's own."""
    return pools.States(pages)


@dataclass
class Drive:
    """A door and the host pool behind it."""

    door: Any
    pool: Any
    pages: Any = field(init=False)

    def __post_init__(self) -> None:
        from lms_tiers.doors.sglang.pages import Pages

        self.pages = Pages(self.pool)

    @property
    def store(self) -> Any:
        return self.door._store

    def faulty(self) -> Any:
        """The backend of the top tier, which takes orders."""
        return self.store._h.tiers[0].backend

    @property
    def size(self) -> int:
        return int(self.pages.nbytes)

    def indices(self, slots: Sequence[int]) -> torch.Tensor:
        size = self.pages.page_size
        return torch.tensor([slot * size + i for slot in slots for i in range(size)], dtype=torch.int64)

    def slot(self, slot: int) -> bytes:
        """A page's bytes in the flat order."""
        if self.pool.layout == "page_unified":
            return b"".join(self.pages.spans(self.indices([slot]))[0])
        return bytes(self.pages.copy_out(slot * self.pages.page_size))

    def fill(self, slot: int, data: bytes) -> None:
        if self.pool.layout == "page_unified":
            self.pages.spans(self.indices([slot]))[0][0][:] = data
            return
        like = self.pool.get_dummy_flat_data_page()
        page = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(like.dtype)
        self.pool.set_from_flat_data_page(slot * self.pages.page_size, page)

    def wipe(self) -> None:
        self.pool.kv_buffer.view(torch.uint8).fill_(CANARY)

    def untouched(self, *but: int) -> bool:
        """Whether every page but these is as it was."""
        return all(self.slot(slot) == bytes([CANARY]) * self.size for slot in range(PAGES) if slot not in but)

    def save(self, keys: Sequence[int], slots: Sequence[int] | None = None) -> list[bool]:
        """Fill pages with the chunks of `keys`, store them, and leave canaries."""
        slots = list(range(len(keys))) if slots is None else slots
        for key, slot in zip(keys, slots, strict=True):
            self.fill(slot, chunk(key, self.size))
        saved = self.door.batch_set_v1([name(key) for key in keys], self.indices(slots))
        self.wipe()
        return list(saved)

    def load(self, keys: Sequence[int], slots: Sequence[int]) -> list[bool]:
        return list(self.door.batch_get_v1([name(key) for key in keys], self.indices(slots)))

    def looks(self, keys: Sequence[int]) -> list[bool]:
        return [bool(self.door.exists(name(key))) for key in keys]


Open = Callable[..., Drive]


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[Open]:
    """Opens doors: ``open_door(device, pool=…, options={…}, configuration…)``; what is left open is closed at the end."""
    drives: list[Drive] = []

    def opening(device: str = "cpu?capacity=64MiB", *, pool: Any = None, options: Any = None, **changes: Any) -> Drive:
        from lms_tiers.doors.sglang import HiCache

        given = {
            "backend_name": "lms", "module_path": "lms_tiers.doors.sglang", "class_name": "HiCache",
            "interface_v1": 1, "device": device.replace("{path}", str(tmp_path / "kv")), **(options or {}),
        }  # fmt: skip
        door = HiCache(config(given, **changes), {})
        pool = pool_of(latent=bool(changes.get("is_mla_model"))) if pool is None else pool
        door.register_mem_pool_host(pool)
        pools.all_registered(door)
        drives.append(Drive(door, pool))
        return drives[-1]

    yield opening
    for drive in drives:
        with suppress(LmsTiersError):
            drive.door.close()


@pytest.fixture
def served() -> Iterator[Callable[..., Any]]:
    """Starts servers over memory; on a port that was used before where it is given."""
    from lms_tiers import LMSLocalBackend
    from lms_tiers.server.server import Server
    from lms_tiers.server.settings import make_settings

    servers: list[Any] = []

    def start(port: int = 0) -> Any:
        settings = {"host": "127.0.0.1", "threads": 4, "max_chunk": "1MiB", "receive_budget": "16MiB", "port": port}
        server = Server(LMSLocalBackend(), make_settings(None, settings))
        server.__enter__()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)
