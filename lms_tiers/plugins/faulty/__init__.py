"""The backend `faulty`: another backend with faults on purpose. The spec only; `backend` is the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import BackendSpec, hookimpl

SPEC: Final = BackendSpec(
    name="faulty",
    factory="lms_tiers.plugins.faulty.backend:open_backend",
    options="lms_tiers.plugins.faulty.backend:FaultyOptions",
    summary="another backend with faults on purpose, for tests",
    example="faulty:cpu",
)


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `faulty`."""
    register(SPEC)
