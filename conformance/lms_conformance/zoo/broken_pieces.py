"""Mutants of reads into several pieces of memory at once: `get_scattered` and `get_many_into`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lms_conformance.zoo.broken_readers import Requests
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.buffers import scatter_bytes, writable_bytes
from lms_tiers.errors import InvalidBufferError
from lms_tiers.interface import ChunkView
from lms_tiers.messages import CacheEngineKey, ChunkMeta


class _Scatters(Wrapper):
    """Reads into pieces by itself."""

    def get_scattered(
        self, key: CacheEngineKey, buffers: Sequence[Any], *, expected: ChunkMeta | None = None
    ) -> ChunkMeta | None:
        """As the interface does it; what is broken is in `fits` and `fill`."""
        targets = [writable_bytes(buffer, 0) for buffer in buffers]
        with self.inner.view(key) as view:
            if view is None or not self.fits(view.meta, expected):
                return None
            if sum(target.nbytes for target in targets) < view.meta.length:
                raise InvalidBufferError("the destinations are too small.")
            return self.fill(view, targets, expected)

    def fits(self, meta: ChunkMeta, expected: ChunkMeta | None) -> bool:
        """Whether it is what is expected."""
        return expected in (None, meta)

    def fill(self, view: ChunkView, targets: list[memoryview], expected: ChunkMeta | None) -> ChunkMeta | None:
        """Copy."""
        scatter_bytes(view.buffers, targets)
        return view.meta


@mutant("ignores-what-is-expected", "OPT-01")
class IgnoresExpected(_Scatters):
    """Reads into pieces whatever is expected."""

    def fits(self, meta: ChunkMeta, expected: ChunkMeta | None) -> bool:
        """Always."""
        return True


@mutant("expects-by-length", "OPT-01")
class ExpectsByLength(_Scatters):
    """Compares what is expected by its length alone."""

    def fits(self, meta: ChunkMeta, expected: ChunkMeta | None) -> bool:
        """Of the same length."""
        return expected is None or expected.length == meta.length


@mutant("compares-after-it-wrote", "OPT-01")
class ComparesLate(_Scatters):
    """Fills the pieces, and looks at what was expected only then."""

    def fits(self, meta: ChunkMeta, expected: ChunkMeta | None) -> bool:
        """Later."""
        return True

    def fill(self, view: ChunkView, targets: list[memoryview], expected: ChunkMeta | None) -> ChunkMeta | None:
        """And then compare."""
        scatter_bytes(view.buffers, targets)
        return view.meta if expected in (None, view.meta) else None


@mutant("fills-each-piece-from-the-start", "OPT-01")
class FillsFromStart(_Scatters):
    """Begins with the chunk's first byte in each piece."""

    def fill(self, view: ChunkView, targets: list[memoryview], expected: ChunkMeta | None) -> ChunkMeta | None:
        """Anew in each."""
        data = b"".join(view.buffers)
        for target in targets:
            size = min(len(target), len(data))
            target[:size] = data[:size]
        return view.meta


@mutant("stops-at-an-empty-piece", "OPT-01")
class StopsAtEmpty(_Scatters):
    """Takes a piece without bytes for the end."""

    def fill(self, view: ChunkView, targets: list[memoryview], expected: ChunkMeta | None) -> ChunkMeta | None:
        """Up to it."""
        data, at = b"".join(view.buffers), 0
        for target in targets:
            if not len(target):
                break
            part = data[at : at + len(target)]
            target[: len(part)] = part
            at += len(part)
        return view.meta


@mutant("wants-the-first-piece-to-hold-it-all", "OPT-01")
class WantsOnePiece(_Scatters):
    """Compares the chunk's length with the first piece."""

    def fill(self, view: ChunkView, targets: list[memoryview], expected: ChunkMeta | None) -> ChunkMeta | None:
        """Into the first."""
        if targets and len(targets[0]) < view.meta.length:
            raise InvalidBufferError("the destination is too small.")
        scatter_bytes(view.buffers, targets)
        return view.meta


@mutant("fills-one-buffer-a-key", "OPT-01")
class FillsOneAKey(Wrapper):
    """Reads a key that a batch names twice once, into the first of its buffers."""

    def get_many_into(self, requests: Requests, **told: Any) -> list[ChunkMeta | None]:
        """Each key once."""
        known: dict[str, ChunkMeta | None] = {}
        found = []
        wanted = told.get("expected")
        for i, (key, buffers) in enumerate(requests):
            if text_of(key) not in known:
                one = {"expected": wanted[i : i + 1]} if wanted else {}
                known[text_of(key)] = super().get_many_into([(key, buffers)], **one)[0]
            found.append(known[text_of(key)])
        return found


@mutant("fills-what-fits-of-the-pieces", "OPT-09")
class FillsWhatFits(Wrapper):
    """Copies into pieces until one cannot be written to."""

    def get_scattered(
        self, key: CacheEngineKey, buffers: Sequence[Any], *, expected: ChunkMeta | None = None
    ) -> ChunkMeta | None:
        """As far as it goes."""
        obj, at = self.inner.get(key), 0
        for buffer in buffers if obj is not None and expected is None else ():
            target = writable_bytes(buffer, 0)
            part = bytes(memoryview(obj.data)[at : at + len(target)]) if obj is not None else b""
            target[: len(part)] = part
            at += len(part)
        return super().get_scattered(key, buffers, expected=expected)
