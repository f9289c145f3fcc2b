"""The way in: chunks are prepared in the caller's thread and handed to the writer, many before the first is waited for.

What a chunk borrows (the caller's bytes, scratch of the pool) is held until the writer is done with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from lms_tiers.messages import ClientMetaMessage
from lms_tiers.plugins.lmdb import changes
from lms_tiers.plugins.lmdb.preparing import Preparing
from lms_tiers.plugins.lmdb.writing import Chain, Operation, Skipped, Writer

#: `put_many` hands the writer this much before it waits for the oldest.
_AHEAD_BYTES: Final = 64 << 20


class Storing:
    """Puts of one store."""

    def __init__(self, preparing: Preparing, writer: Writer) -> None:
        self._preparing = preparing
        self._writer = writer

    def put(self, client_meta: ClientMetaMessage, data: Any) -> None:
        """Store one chunk; returns when it is committed."""
        _, operation, scratch = self._submit(client_meta, data, None)
        try:
            operation.outcome()
        finally:
            self._preparing.give_back(scratch)

    def put_many(self, items: Iterable[tuple[ClientMetaMessage, Any]]) -> None:
        """Store chunks in order; where one fails, those before it are stored, it and those after are not."""
        chain = Chain()
        running: deque[tuple[int, Operation, bytearray | None]] = deque()
        ahead = 0
        error: BaseException | None = None

        def settle() -> int:
            nonlocal error
            weight, operation, scratch = running.popleft()
            operation.wait()
            self._preparing.give_back(scratch)
            # In order: the first error that is not a consequence of another is the call's.
            if operation.error is not None and (error is None or isinstance(error, Skipped)):
                error = operation.error
            return weight

        refused: BaseException | None = None
        for client_meta, data in items:
            try:
                running.append(self._submit(client_meta, data, chain))
            except BaseException as caught:
                refused = caught
                break
            ahead += running[-1][0]
            while ahead > _AHEAD_BYTES:
                ahead -= settle()
            if chain.failed:
                break
        while running:
            settle()
        if error is not None or refused is not None:
            raise error or refused  # type: ignore[misc]  # one of them is not None

    def _submit(
        self, client_meta: ClientMetaMessage, data: Any, chain: Chain | None
    ) -> tuple[int, Operation, bytearray | None]:
        preparing = self._preparing
        chunk = preparing.prepare(client_meta, data)
        weight = chunk.manifest.stored
        seed, usable = preparing.seed, preparing.budget.usable
        operation = Operation(lambda tx: changes.put(tx, chunk, seed, usable), weight, chain)
        try:
            self._writer.submit(operation)
        except BaseException:
            preparing.give_back(chunk.scratch)
            raise
        return weight, operation, chunk.scratch
