"""Chunks in one LMDB file: persistent, bounded by the file's size on disk, verified on every read.

`layout` is the form of records, `parts` how a value is cut, `space` the accounting in pages, `reading` and `writing`
the two ways through, `opening` what happens to a directory before it is trusted. Importing this imports no lmdb.
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
            summary="a bounded LMDB file on a local disk: persistent, checksummed, compressed",
            example="lmdb:{tmp}/lms?capacity={capacity}",
            medium="disk",
        )
    )
