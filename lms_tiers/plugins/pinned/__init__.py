"""The backend `pinned`: chunks in one page-locked arena of host memory. The spec only; `backend` is the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import BackendSpec, hookimpl

SPEC: Final = BackendSpec(
    name="pinned",
    factory="lms_tiers.plugins.pinned.backend:open_backend",
    options="lms_tiers.plugins.pinned.backend:PinnedOptions",
    summary="page-locked host memory, taken whole at start; ordinary memory where no accelerator is",
    example="pinned?capacity={capacity}",
    medium="memory",
)


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `pinned`."""
    register(SPEC)
