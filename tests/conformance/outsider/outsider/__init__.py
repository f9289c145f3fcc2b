"""A plugin that nobody here wrote: chunks on a server of its own, found by its entry point, opened by its harness."""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers import BackendSpec, hookimpl


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `outsider`."""
    register(BackendSpec(name="outsider", factory="outsider.backend:open_backend", conformance="outsider.kit:harness"))
