"""The plugin: what lms_tiers finds by entry point. Light imports only; the backend is imported on first use."""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers import BackendSpec, hookimpl


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `objects`."""
    register(
        BackendSpec(
            name="objects",
            factory="lms_tiers_objects.backend:open_backend",
            options="lms_tiers_objects.backend:ObjectsOptions",
            summary="an object store: S3, GCS, Azure, local files, memory",
            example="objects:file://{tmp}/objects",
        )
    )
