"""Chunks on a local disk, indexed by LMDB: persistent, bounded by the blocks on disk, verified on every read.

From below: `layout` is the form of records, `space` the accounting, `calls` who is inside; `directory`, `datafile`,
`journal` and `index` are the files; `extents` and `pages` say which pages are whose, `entries` what is known of chunks,
`grants` what a put gets, `store` how what is known changes; `checkpoint` brings it to the medium; `recovery` and
`opening` say what was there; `reading`, `writing` and `cooling` move bytes. Importing this imports no lmdb.
"""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers.hookspecs import BackendSpec, hookimpl


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `lmdb`."""
    register(
        BackendSpec(
            name="lmdb",
            factory="lms_tiers.plugins.lmdb.backend:open_backend",
            options="lms_tiers.plugins.lmdb.options:LmdbOptions",
            summary="a bounded store on a local disk: persistent, checksummed, compressed",
            example="lmdb:{tmp}/lms?capacity={capacity}",
            medium="disk",
        )
    )
