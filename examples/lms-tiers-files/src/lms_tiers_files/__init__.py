"""The plugin: what lms_tiers finds by entry point. Light imports only; the backend is imported on first use."""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers import BackendSpec, hookimpl


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `files`."""
    register(
        BackendSpec(
            name="files",
            factory="lms_tiers_files.backend:open_backend",
            options="lms_tiers_files.backend:FilesOptions",
            summary="one file per chunk in a directory",
            example="files:{tmp}/chunks",
        )
    )
