"""The backend `lm`: another server as a store of its own, or as the lowest tier of one. The spec only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import BackendSpec, hookimpl

SPEC: Final = BackendSpec(
    name="lm",
    factory="lms_tiers.plugins.lm.backend:open_backend",
    options="lms_tiers.plugins.lm.backend:LmOptions",
    summary="another lm:// server, over TCP, TLS or a Unix-domain socket",
    example="lm:{server}?timeout={deadline}",
    medium="shared",
)


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `lm`."""
    register(SPEC)
