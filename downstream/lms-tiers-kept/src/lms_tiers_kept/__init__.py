"""The plugin: what lms_tiers finds by entry point. Light imports only; the backend is imported on first use."""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers import BackendSpec, hookimpl


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `kept`."""
    register(
        BackendSpec(
            name="kept",
            factory="lms_tiers_kept.backend:open_backend",
            options="lms_tiers_kept.backend:KeptOptions",
            summary="KV chunks, compressed in memory",
            example="kept",
            medium="memory",  # or "disk", or "shared": an engine that others use too; a capacity is compared with it
        )
    )
