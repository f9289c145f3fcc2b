"""A library for `lms_tiers.apart`: objects by their own names, past the backend."""

import runpy
from typing import Any


class Raw:
    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self, memory: memoryview, at: int, name: str) -> Any:
        return self._store.batch_get_into([name], [at], [len(memory)])

    def write(self, memory: memoryview, at: int, name: str, size: int) -> Any:
        return self._store.batch_upsert_from([name], [at], [size])


def start(told: dict[str, Any], memory: memoryview) -> tuple[Raw, int]:
    engine, at = runpy.run_path(told["engine"])["start"](told, memory)
    return Raw(engine._store), at
