"""Backends that break one promise each, and which property must say so. Needs SGLang."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch

from lms_conformance.adapters.broken import Zoo
from lms_conformance.adapters.hicache.reference import Reference
from lms_conformance.adapters.shelf import Shelf

ZOO = Zoo("hicache", {"place": "{tmp}/kv"})


@ZOO("DOR-H01")
class SwapsPlanes(Reference):
    """Stores the values of a page before its keys."""

    def read(self, pool: str, key: str) -> torch.Tensor | None:
        page = super().read(pool, key)
        return page if page is None else torch.roll(page, page.numel() // 2)


@ZOO("DOR-H02")
class ClearsMisses(Reference):
    """Writes zeros into the slots of misses."""

    def one(self, pool: str, key: str, slot: int) -> bool:
        if super().one(pool, key, slot):
            return True
        self.fill(pool, slot, self.pools[pool].get_dummy_flat_data_page())
        return False


@ZOO("DOR-H02")
class StopsAtAMiss(Reference):
    """Answers a miss for every page behind a missing one."""

    def _load(self, pool: str, keys: Sequence[str], slots: Sequence[int]) -> list[bool]:
        there = super()._load(pool, keys, slots)
        return [good and all(there[:i]) for i, good in enumerate(there)]


@ZOO("DOR-H03")
class WritesOneTooMany(Reference):
    """Writes the page behind the last of a load, too."""

    def fill(self, pool: str, slot: int, page: torch.Tensor) -> None:
        super().fill(pool, slot, page)
        size = self.pools[pool].page_size
        if pool == "kv" and slot + 2 * size <= 4 * size:
            super().fill(pool, slot + size, page)


@ZOO("DOR-H03")
class ClearsWhatItStored(Reference):
    """Leaves zeros in host memory where it has stored a page."""

    def _save(self, pool: str, keys: Sequence[str], slots: Sequence[int]) -> list[bool]:
        saved = super()._save(pool, keys, slots)
        for slot in slots:
            self.fill(pool, slot, self.pools[pool].get_dummy_flat_data_page())
        return saved


@ZOO("DOR-H04")
class CountsBehindGaps(Reference):
    """`batch_exists` counts every page that is held, gaps or not."""

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        return sum(self.held("kv", key) for key in keys)


@ZOO("DOR-H04")
class RemembersWhatWasAsked(Reference):
    """`exists` answers True for what it was asked before."""

    def exists(self, key: str) -> bool:
        self.__dict__.setdefault("asked", []).append(key)
        return self.held("kv", key) or self.asked.count(key) > 1


@ZOO("DOR-H05")
class RefusesWhatItHolds(Reference):
    """Storing a page that is held fails."""

    def keep(self, pool: str, key: str, page: torch.Tensor) -> bool:
        return not self.shelves[pool].has(key) and super().keep(pool, key, page)


@ZOO("DOR-H06")
class IgnoresTheWindow(Reference):
    """Wants every page of a pool of which the last would do."""

    def fold(self, held: list[bool], beside: list[Any]) -> Any:
        import dataclasses

        return super().fold(held, [dataclasses.replace(one, window=None) for one in beside])


@ZOO("DOR-H06")
class ForgetsTheOtherPools(Reference):
    """Counts the model's own pages only."""

    def fold(self, held: list[bool], beside: list[Any]) -> Any:
        return super().fold(held, [])


@ZOO("DOR-H07")
class OneShelfForAll(Reference):
    """Takes a page that one pool holds for the other's."""

    def held(self, pool: str, key: str) -> bool:
        return any(super(OneShelfForAll, self).held(name, key) for name in self.shelves)

    def keep(self, pool: str, key: str, page: torch.Tensor) -> bool:
        return True if self.held(pool, key) else super().keep(pool, key, page)


@ZOO("DOR-H08")
class TakesWhatIndicesThereAre(Reference):
    """Moves as many pages as there are indices, and calls the rest moved."""

    def moved(self, move: Any, transfer: Any) -> list[bool]:
        return [True] * len(transfer.keys)


@ZOO("DOR-H09")
class WritesInPlace(Reference):
    """A write that fails leaves what it has written, under the page's name."""

    def keep(self, pool: str, key: str, page: torch.Tensor) -> bool:
        try:
            return super().keep(pool, key, page)
        finally:
            if not self.held(pool, key) and not self.closed:
                self.shelves[pool].file(key).write_bytes(b"torn")


@ZOO("DOR-H09")
class CallsEveryStoreASuccess(Reference):
    """A page that could not be written is answered as stored."""

    def keep(self, pool: str, key: str, page: torch.Tensor) -> bool:
        super().keep(pool, key, page)
        return True


class Trusting(Shelf):
    """Reads without a look at the checksum."""

    def get(self, name: str, what: object = "") -> bytes | None:
        file = self.file(name)
        return file.read_bytes()[32:] if file.exists() else None


@ZOO("DOR-H10")
class Trusts(Reference):
    """Reads what the medium answers."""

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        self.shelves[host_pool_name.value] = Trusting(self.place, self.whose(host_pool, host_pool_name))


@ZOO("DOR-H11")
class RaisesOnShortFiles(Trusts):
    """A file of another length is an error, raised into SGLang's thread."""

    def read(self, pool: str, key: str) -> torch.Tensor | None:
        found = self.shelves[pool].get(key)
        if found is not None and len(found) != len(self.pools[pool].get_dummy_flat_data_page().view(torch.uint8)):
            raise OSError(f"Short read for {key}")
        return super().read(pool, key)


@ZOO("DOR-H12", failing={"fail": 0.3})
class WritesBeforeItKnows(Reference):
    """A read that fails has written half of the page, and is answered as a hit."""

    def one(self, pool: str, key: str, slot: int) -> bool:
        if self.config.extra_config.get("fail") and random.Random(key).random() < 0.9:
            page = self.read(pool, key)
            if page is not None:
                page[: page.numel() // 2] = 0
                self.fill(pool, slot, page)
                return True
        return super().one(pool, key, slot)


@ZOO("DOR-H13")
class ForgetsTheLast(Reference):
    """The page that was stored last is written when the next one is."""

    def keep(self, pool: str, key: str, page: torch.Tensor) -> bool:
        waiting = self.__dict__.setdefault("waiting", {})
        for old, kept in list(waiting.items()):
            super().keep(old[0], old[1], kept)
        waiting.clear()
        waiting[pool, key] = page.clone()
        return True

    def held(self, pool: str, key: str) -> bool:
        return super().held(pool, key) or (pool, key) in self.__dict__.get("waiting", {})

    def read(self, pool: str, key: str) -> torch.Tensor | None:
        page = self.__dict__.get("waiting", {}).get((pool, key))
        return super().read(pool, key) if page is None else page.clone().view(-1)


@ZOO("DOR-H14")
class WritesAtTheEnd(ForgetsTheLast):
    """The page that was stored last is written when the next one is, or by `close`."""

    def close(self) -> None:
        for old, kept in list(self.__dict__.get("waiting", {}).items()):
            Reference.keep(self, old[0], old[1], kept)
        super().close()


@ZOO("DOR-H15")
class ClosesAtOnce(Reference):
    """`close` does not wait for the calls inside."""

    def close(self) -> None:
        threading.Thread(target=super().close).start()


@ZOO("DOR-H16")
class ServesOn(Reference):
    """After `close` it goes on as before."""

    def close(self) -> None:
        """Nothing ends."""
        with self.inside:
            self.closed = False


@ZOO("DOR-H16")
class ClosesOnce(Reference):
    """A second `close` raises."""

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("it is closed")
        super().close()


@ZOO("DOR-H17")
class ClearsNothing(Reference):
    """`clear` answers True and removes nothing."""

    def clear(self) -> bool:
        return True


@ZOO("DOR-H18")
class OnePageForAll(Reference):
    """Reads go through one page that all threads use."""

    def read(self, pool: str, key: str) -> torch.Tensor | None:
        page = super().read(pool, key)
        if page is not None:
            self.shared = page
            time.sleep(0)
            return self.shared
        return None

    def keep(self, pool: str, key: str, page: torch.Tensor) -> bool:
        self.shared = page.contiguous().view(-1)
        return super().keep(pool, key, page)

    def _load(self, pool: str, keys: Sequence[str], slots: Sequence[int]) -> list[bool]:
        return [self.one(pool, key, slot) for key, slot in zip(keys, slots, strict=True)]

    def _save(self, pool: str, keys: Sequence[str], slots: Sequence[int]) -> list[bool]:
        return [self.keep(pool, k, self.pools[pool].get_data_page(s)) for k, s in zip(keys, slots, strict=True)]


@ZOO("DOR-H19")
class AnyDtype(Reference):
    """Its names leave out the dtype."""

    def kind(self, pool: Any) -> dict[str, object]:
        return {"layout": pool.layout}


@ZOO("DOR-H20")
class AnyLayout(Reference):
    """Its names leave out the layout."""

    def kind(self, pool: Any) -> dict[str, object]:
        return {"dtype": str(pool.dtype)}


@ZOO("DOR-H21")
class AnyShape(Reference):
    """Its names leave out what a page is made of."""

    def shape(self, pool: Any) -> dict[str, object]:
        return {}


@ZOO("DOR-H22")
class AnyModel(Reference):
    """Its names leave out the model."""

    def model(self) -> dict[str, object]:
        return {"latent": self.config.is_mla_model}


@ZOO("DOR-H22")
class SlashIsNothing(Reference):
    """In its names a slash at the end of a model's is none."""

    def model(self) -> dict[str, object]:
        return {"model": (self.config.model_name or "").strip("/")}


@ZOO("DOR-H23")
class AnyRank(Reference):
    """Its names leave out the rank."""

    def ranks(self) -> dict[str, object]:
        return {"tp_size": self.config.tp_size, "pp_size": self.config.pp_size, "cp": self.config.attn_cp_size}
