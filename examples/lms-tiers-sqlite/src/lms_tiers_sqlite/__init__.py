"""The plugin: what lms_tiers finds by entry point. Light imports only; the backend is imported on first use."""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers import BackendSpec, hookimpl


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `sqlite`."""
    register(
        BackendSpec(
            name="sqlite",
            factory="lms_tiers_sqlite.backend:open_backend",
            options="lms_tiers_sqlite.backend:SqliteOptions",
            summary="one SQLite database",
            example="sqlite:{tmp}/chunks.db?capacity={capacity}",
        )
    )
