"""The way in: chunks are prepared in the caller's thread and handed to the writer, many before the first is waited for.

What a chunk borrows (the caller's bytes, scratch of the pool) is held until the writer is done with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any, Final

from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import ChunkMeta, ClientMetaMessage
from lms_tiers.plugins.lmdb.changes import Prepared, Transaction, put
from lms_tiers.plugins.lmdb.parts import FINER_PAGES
from lms_tiers.plugins.lmdb.preparing import Preparing
from lms_tiers.plugins.lmdb.writing import Chain, Operation, Skipped, Writer

#: `put_many` hands the writer this much before it waits for the oldest.
_AHEAD_BYTES: Final = 64 << 20
#: And it hands over so much at once: encoding is slower than writing, and a writer that is woken for each chunk makes a
#: commit for each.
_TOGETHER_BYTES: Final = 4 << 20
#: So many chunks of another backend are borrowed at once. Where that is a store like this one, each takes one of its
#: 510 reader slots, and a call that waits for one holds the others: sixteen calls at once find theirs.
_LENT_MOST: Final = 32


class PutOperation(Operation):
    """A put, which can be cut finer where the file's free pages lie scattered."""

    __slots__ = ("_finer", "_preparing", "chunk")

    def __init__(self, preparing: Preparing, chunk: Prepared, chain: Chain | None) -> None:
        super().__init__(self._put, chunk.manifest.stored, chain)
        self.chunk = chunk
        self._preparing = preparing
        self._finer = iter(FINER_PAGES)

    def _put(self, tx: Transaction) -> None:
        put(tx, self.chunk, self._preparing.seed, self._preparing.budget.usable)

    def finer(self) -> bool:
        """See `Operation.finer`."""
        for pages in self._finer:
            finer = self._preparing.finer(self.chunk, pages)
            if finer.manifest.groups != self.chunk.manifest.groups:
                self.chunk = finer
                return True
        return False


class Storing:
    """Puts of one store."""

    def __init__(self, preparing: Preparing, writer: Writer) -> None:
        self._preparing = preparing
        self._writer = writer

    def put(self, client_meta: ClientMetaMessage, data: Any) -> None:
        """Store one chunk; returns when it is committed."""
        operation = self._prepare(client_meta, data, None)
        try:
            self._writer.submit(operation)
            operation.outcome()
        finally:
            self._preparing.give_back(operation.chunk.scratch)

    def put_many(self, items: Iterable[tuple[ClientMetaMessage, Any]]) -> None:
        """Store chunks in order; where one fails, those before it are stored, it and those after are not."""
        chain = Chain()
        waiting: list[PutOperation] = []  # prepared, and not yet the writer's
        running: deque[PutOperation] = deque()
        gathered = ahead = 0
        error: BaseException | None = None

        def submit() -> int:
            """Let the writer have what waits; its weight."""
            operations = waiting.copy()
            waiting.clear()
            try:
                self._writer.submit_all(operations)
            except BaseException:
                for operation in operations:
                    self._preparing.give_back(operation.chunk.scratch)
                raise
            running.extend(operations)
            return sum(operation.weight for operation in operations)

        def settle() -> int:
            nonlocal error
            operation = running.popleft()
            operation.wait()
            self._preparing.give_back(operation.chunk.scratch)
            # In order: the first error that is not a consequence of another is the call's.
            if operation.error is not None and (error is None or isinstance(error, Skipped)):
                error = operation.error
            return operation.weight

        refused: BaseException | None = None
        try:
            for client_meta, data in items:
                waiting.append(self._prepare(client_meta, data, chain))
                gathered += waiting[-1].weight
                if gathered < _TOGETHER_BYTES:
                    continue
                ahead += submit()
                gathered = 0
                while ahead > _AHEAD_BYTES:
                    ahead -= settle()
                if chain.failed:
                    break
        except BaseException as caught:
            refused = caught
        try:
            if waiting:
                submit()
        except BaseException as caught:
            refused = refused or caught
        while running:
            settle()
        if error is not None:
            raise error
        if refused is not None:
            raise refused

    def put_from(self, client_metas: Iterable[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """Store chunks as `source` lends them, in order; which of them it held as the messages say."""
        held: list[bool] = []
        metas = iter(client_metas)
        while True:
            before = len(held)
            with ExitStack() as views:
                self.put_many(_lent(islice(metas, _LENT_MOST), source, views, held))
            if len(held) - before < _LENT_MOST:
                return held

    def _prepare(self, client_meta: ClientMetaMessage, data: Any, chain: Chain | None) -> PutOperation:
        return PutOperation(self._preparing, self._preparing.prepare(client_meta, data), chain)


def _lent(
    client_metas: Iterable[ClientMetaMessage], source: LMSBackendInterface, views: ExitStack, held: list[bool]
) -> Iterator[tuple[ClientMetaMessage, Any]]:
    """What to put, borrowed until `views` ends; notes of each chunk whether `source` held it."""
    for client_meta in client_metas:
        view = views.enter_context(source.view(client_meta.key))
        held.append(view is not None and view.meta == ChunkMeta.of(client_meta, client_meta.length))
        if view is not None and held[-1]:
            whole = view.buffers[0] if len(view.buffers) == 1 else bytearray().join(view.buffers)
            yield client_meta, whole
