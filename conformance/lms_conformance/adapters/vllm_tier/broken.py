"""Secondary tiers that break one promise each, and which property must say so. Needs vLLM."""

from __future__ import annotations

import random
from typing import Any

from vllm.v1.kv_offload.base import OffloadingCounterMetadata, RequestOffloadingContext

from lms_conformance.adapters.broken import Zoo
from lms_conformance.adapters.vllm_tier.reference import Reference

ZOO = Zoo("vllm-tier", {"place": "{tmp}/kv"})


@ZOO("DOR-V01")
class WritesTheSlotBehind(Reference):
    """Every row but the last lands one slot too far as well."""

    def copy(self, data: bytes, slot: Any) -> None:
        super().copy(data, slot)
        if int(slot) + 1 < len(self.rows) // self.row:
            super().copy(data, int(slot) + 1)


@ZOO("DOR-V01")
class LastPageOnly(Reference):
    """The last page of a row stays what it was."""

    def copy(self, data: bytes, slot: Any) -> None:
        self.slot(slot)[:-4096] = data[:-4096]


@ZOO("DOR-V02")
class AllOrNothingToldAsAll(Reference):
    """A load of which a part came is called a success."""

    def report(self, result: Any) -> None:
        if result.successful_keys:
            result.success = True
        super().report(result)


@ZOO("DOR-V03")
class LooksForARun(Reference):
    """A look-up answers MISS behind the first chunk of a request that is absent."""

    def looks(self, one: tuple[str, bytes]) -> None:
        gap = any(not held for (req_id, _), held in list(self.known.items()) if req_id == one[0])
        self.known.setdefault(one, not gap and self.shelf.has(one[1].hex()))


@ZOO("DOR-V03")
class AsksForEver(Reference):
    """What is absent is to be asked for again, always."""

    def looks(self, one: tuple[str, bytes]) -> None:
        if self.shelf.has(one[1].hex()):
            self.known[one] = True


@ZOO("DOR-V04")
class ReportsAgain(Reference):
    """Every fifth result is reported twice."""

    count = 0

    def report(self, result: Any) -> None:
        super().report(result)
        self.count += 1
        if self.count % 5 == 0:
            super().report(result)


@ZOO("DOR-V04")
class ForgetsAJob(Reference):
    """Every seventh job has no result."""

    count = 0

    def report(self, result: Any) -> None:
        self.count += 1
        if self.count % 7:
            super().report(result)


@ZOO("DOR-V05")
class LoadsInTheCall(Reference):
    """Loads are done in the scheduler's thread."""

    def submit_load(self, job_metadata: Any) -> None:
        self.drain_jobs()
        self.loads(job_metadata)


@ZOO("DOR-V05")
class StoresInTheCall(Reference):
    """Stores are done in the scheduler's thread."""

    def submit_store(self, job_metadata: Any) -> None:
        self.stores(job_metadata)


@ZOO("DOR-V06")
class RefusesWhatItHolds(Reference):
    """Storing a chunk that is held fails."""

    def store_one(self, key: bytes, slot: Any) -> bool:
        return not self.shelf.has(key.hex()) and super().store_one(key, slot)


@ZOO("DOR-V07")
class AnswersNothing(Reference):
    """A new request is answered with None."""

    def on_new_request(self, req_context: Any) -> Any:
        return None


@ZOO("DOR-V07")
class RaisesOnStrangers(Reference):
    """The end of a request that it does not know raises."""

    def on_new_request(self, req_context: Any) -> Any:
        self.__dict__.setdefault("requests", set()).add(req_context.req_id)
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: Any) -> None:
        self.__dict__.setdefault("requests", set()).remove(req_context.req_id)
        super().on_request_finished(req_context)


@ZOO("DOR-V08")
class DrainsNothing(Reference):
    """`drain_jobs` returns at once."""

    def drain_jobs(self) -> None:
        """What runs, runs on."""


@ZOO("DOR-V08")
class DropsWhatItDrains(Reference):
    """Jobs that wait are dropped by `drain_jobs` without a result."""

    def drain_jobs(self) -> None:
        with self.wake:
            self.work.clear()
        super().drain_jobs()


@ZOO("DOR-V09")
class TellsEveryStoreTwice(Reference):
    """A stored chunk is told of twice."""

    def tell(self, keys: list[bytes]) -> None:
        super().tell(keys * 2)


@ZOO("DOR-V09")
class TellsTheFirst(Reference):
    """Of a job's chunks the first is told of."""

    def tell(self, keys: list[bytes]) -> None:
        super().tell(keys[:1])


@ZOO("DOR-V10")
class TellsWhatItDidNotDefine(Reference):
    """A metric that is told was never defined."""

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, Any]:
        return {"vllm:kv_offload_mine_total": OffloadingCounterMetadata(documentation="bytes")}

    def get_stats(self) -> Any:
        class Stats:
            """As an old release has it."""

            _values = {"vllm:kv_offload_others_total": {(): 1.0}}  # noqa: RUF012  # a record

        return Stats()


@ZOO("DOR-V11")
class CallsEveryStoreASuccess(Reference):
    """A row that could not be written is reported as stored."""

    def store_one(self, key: bytes, slot: Any) -> bool:
        super().store_one(key, slot)
        return True


@ZOO("DOR-V11")
class KeepsWhatIsTorn(Reference):
    """A row that could not be written leaves a file with its name."""

    def store_one(self, key: bytes, slot: Any) -> bool:
        good = super().store_one(key, slot)
        if not good:
            self.shelf.file(key.hex()).write_bytes(b"torn")
        return good


@ZOO("DOR-V12")
class Trusts(Reference):
    """Reads what the medium answers."""

    def read(self, key: bytes) -> bytes | None:
        file = self.shelf.file(key.hex())
        return file.read_bytes()[32:] if file.exists() else None


@ZOO("DOR-V13")
class TriesForEver(Reference):
    """A chunk whose load failed reads HIT again."""

    def read(self, key: bytes) -> bytes | None:
        file = self.shelf.file(key.hex())
        found = file.read_bytes() if file.exists() else b""
        return found[32:] if len(found) == self.row + 32 else None

    def failed(self, job: Any, keys: list[bytes]) -> None:
        """Nothing is remembered."""


@ZOO("DOR-V14", failing={"fail": 0.3})
class WritesBeforeItKnows(Reference):
    """A read that fails half-way is reported as a success."""

    def copy(self, data: bytes, slot: Any) -> None:
        if random.Random(bytes(data[:16])).random() < self.fail:  # the same rows in every run
            data = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
        super().copy(data, slot)


class _Later(Reference):
    waiting: tuple[str, bytes] | None = None

    def store_one(self, key: bytes, slot: Any) -> bool:
        if self.waiting is not None:
            self.shelf.put(*self.waiting)
        self.waiting = (key.hex(), bytes(self.slot(slot)))
        return True


@ZOO("DOR-V15")
class ForgetsTheLast(_Later):
    """The chunk that was stored last is written when the next one is."""


@ZOO("DOR-V16")
class WritesAtTheEnd(_Later):
    """The chunk that was stored last is written when the next one is, or by `shutdown`."""

    def shutdown(self) -> None:
        super().shutdown()
        if self.waiting is not None:
            self.shelf.put(*self.waiting)


@ZOO("DOR-V17")
class ShutsDownAtOnce(Reference):
    """`shutdown` does not wait for what runs."""

    def shutdown(self) -> None:
        """What was handed in is still done, by and by; then the thread ends."""
        self.hand(self.end)

    def end(self) -> None:
        self.closed = True


@ZOO("DOR-V17")
class KeepsItsView(Reference):
    """After `shutdown` it still has a view of the primary tier."""

    def shutdown(self) -> None:
        rows, self.rows = self.rows, memoryview(b"")
        super().shutdown()
        self.kept = rows


@ZOO("DOR-V18")
class AnyKind(Reference):
    """Its names leave out the dtype and the length of rows."""

    def kind(self, config: Any) -> object:
        return ""


@ZOO("DOR-V19")
class AnyLayout(Reference):
    """Its names leave out the layout."""

    def layout(self, config: Any) -> object:
        return ""


@ZOO("DOR-V20")
class AnyModel(Reference):
    """Its names hold the first five letters of the model."""

    def model(self, config: Any) -> object:
        return config.model.name[:5]


@ZOO("DOR-V21")
class AnyTopology(Reference):
    """Its names leave out parallel sizes."""

    def ranks(self, config: Any) -> object:
        return config.parallel.rank
