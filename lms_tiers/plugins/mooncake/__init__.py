"""The backend `mooncake`: a Mooncake Store as the place that a fleet shares. The spec only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import BackendSpec, hookimpl

SPEC: Final = BackendSpec(
    name="mooncake",
    factory="lms_tiers.plugins.mooncake.backend:open_backend",
    options="lms_tiers.plugins.mooncake.options:MooncakeOptions",
    summary="a Mooncake Store, shared by all who use it; it knows no users and no TLS",
    example="mooncake:127.0.0.1:50051?prefix={tmp}/",
    medium="shared",
    imports=("mooncake",),
    extra="lms-tiers[mooncake]",
    probe="lms_tiers.plugins.mooncake.backend:probe",
    conformance="lms_conformance.remote.mooncake:harness",
)


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `mooncake`."""
    register(SPEC)
