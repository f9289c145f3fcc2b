"""Contract 1.1: what it adds has defaults, so that a backend written for 1.0 opens and passes unchanged."""

from __future__ import annotations

from typing import Any, ClassVar, List, Optional

import pytest
from lms_conformance import FactoryHarness, run_properties
from lms_conformance.check import explain
from lms_conformance.outcome import Result, Status
from lms_conformance.zoo.memory import BareReference

from lms_tiers import BackendSpec, Capabilities, LMSBackendInterface, MemoryFormat, OpaqueKey
from lms_tiers.buffers import own_bytes
from lms_tiers.device import parse_device
from lms_tiers.errors import BackendClosedError, OutcomeUnknownError, StorageUnavailableError
from lms_tiers.factory import open_device
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.registry import Registry
from tests.depth import asked


class OldShelf(LMSBackendInterface):
    """A backend as contract 1.0 knew it: none of the names that came later."""

    capabilities: ClassVar[Capabilities] = Capabilities(contract="1.0", remove=True)

    def __init__(self) -> None:
        self._chunks: dict[str, tuple[ChunkMeta, bytearray]] = {}
        self._closed = False

    def _open(self) -> dict[str, tuple[ChunkMeta, bytearray]]:
        if self._closed:
            raise BackendClosedError("old shelf")
        return self._chunks

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        chunks, text, data = self._open(), key_text(client_meta.key), own_bytes(kv_chunk_bytes)
        chunks[text] = ChunkMeta.of(client_meta, len(data)), data

    def contains(self, key: CacheEngineKey) -> bool:
        return key_text(key) in self._open()

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        found = self._open().get(key_text(key))
        return None if found is None else found[0].memory_obj(memoryview(found[1]).toreadonly())

    def list_keys(self) -> List[CacheEngineKey]:
        return [CacheEngineKey.from_string(text) for text in list(self._open())]

    def remove(self, key: CacheEngineKey) -> None:
        self._open().pop(key_text(key), None)

    def close(self) -> None:
        self._closed = True


class Doubtful(BareReference):
    """Every third put ends in doubt, stored or not in turn; honest about it."""

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._puts = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self._puts += 1
        if self._puts % 6 != 0:
            super().put(client_meta, kv_chunk_bytes)
        if self._puts % 3 == 0:
            raise OutcomeUnknownError("doubtful", "put", "no answer came.")


class DoubtfulReader(Doubtful):
    """Says of a read what may be said of a write only."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        raise OutcomeUnknownError("doubtful", "get", "no answer came.")


def result_of(factory: Any, name: str) -> Result:
    return run_properties(FactoryHarness(factory), profile="quick", only=[name]).results[0]


def test_a_backend_of_contract_1_0_opens_and_a_tier_takes_it() -> None:
    registry = Registry({}, [])
    registry.backends._specs["old"] = BackendSpec(name="old", factory=lambda location, capacity, options: OldShelf())
    with open_device(parse_device("old"), registry) as bare:
        assert not bare.capabilities.shared
        assert bare.capabilities.batch_stops
    with open_device(parse_device("cpu?capacity=1MiB > old?capacity=1MiB"), registry) as store:
        assert not store.contains(OpaqueKey("a"))


@pytest.mark.parametrize("only", asked(["CNT", "BAT-01", "ERR", "GET"], ["KEY", "CNT", "BAT", "ERR", "RMV", "GET"]))
def test_a_backend_of_contract_1_0_passes_the_kit_unchanged(only: list[str]) -> None:
    report = run_properties(FactoryHarness(OldShelf), profile="quick", only=only)
    assert report.ok, explain(report)
    assert not [r.id for r in report.results if r.status is Status.WARNED]


def test_contains_many_asks_for_each_key_by_default() -> None:
    shelf = OldShelf()
    for text in ("a", "b"):
        shelf.put(ChunkMeta(1, MemoryFormat.KV_2LTD, "uint8", (1,)).message(OpaqueKey(text)), bytearray(1))
    asked = [OpaqueKey(text) for text in ("a", "absent", "b", "a")]
    assert shelf.contains_many(asked) == [True, False, True, True]
    assert shelf.contains_many([]) == []


def test_a_write_in_doubt_is_a_sick_medium_to_whoever_knows_nothing_else() -> None:
    error = OutcomeUnknownError("lm://there:1", "put", "no answer came.")
    assert isinstance(error, StorageUnavailableError)
    assert (error.where, error.operation) == ("lm://there:1", "put")
    assert "may" in str(error)


def test_a_write_in_doubt_that_is_told_honestly_passes() -> None:
    assert result_of(Doubtful, "ERR-06").status is Status.PASSED


def test_a_read_is_never_in_doubt() -> None:
    assert result_of(DoubtfulReader, "ERR-06").status is Status.WARNED  # it came with spec 1.1, and warns there
