"""What must hold of every open store: each page has one owner, and what is counted is what is there."""

from __future__ import annotations

from itertools import pairwise

from lms_tiers.plugins.lmdb.backend import LmdbBackend
from lms_tiers.plugins.lmdb.layout import PAGE, Chunk
from lms_tiers.plugins.lmdb.space import charge, index_share


def assert_whole(backend: LmdbBackend) -> None:
    """No page is in two places, none is lost, and charges and counts are those of the chunks there. No call runs."""
    with backend._checkpoints._making:  # one frees pages
        chunks = [backend._reader.located(key.to_string()) for key in backend.list_keys()]
        with backend._store.lock:
            _assert_whole(backend, [chunk for chunk in chunks if chunk is not None], len(chunks))


def _assert_whole(backend: LmdbBackend, chunks: list[Chunk], listed: int) -> None:
    store = backend._store
    pages = store.pages
    assert len(chunks) == listed == store.counters.chunks
    assert store.counters.charged == sum(charge(one.pages, one.nrecord) for one in chunks)
    assert store.counters.share == sum(index_share(one.nrecord) for one in chunks)
    owned = [run for one in chunks for run in one.extents]
    owned += [run for kept in (*pages._limbo, *pages._withheld.values()) for run in kept.extents]
    backed = 1 + sum(count for _, count in owned) + pages.room.free.pages
    assert pages.room.backed == backed
    # What a file system keeps to know where the blocks lie is in the slack of the budget.
    assert store.data.nbytes <= (backed + 8) * PAGE
    everything = sorted([(0, 1), *owned, *pages.room.free, *pages.room.hollow])
    assert all(a[0] + a[1] == b[0] for a, b in pairwise(everything)), everything
    assert sum(everything[-1]) == pages.room.end
