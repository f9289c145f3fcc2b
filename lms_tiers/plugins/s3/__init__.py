"""The backend `s3`: an object store as the place that a fleet shares. The spec only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import BackendSpec, hookimpl

SPEC: Final = BackendSpec(
    name="s3",
    factory="lms_tiers.plugins.s3.backend:open_backend",
    options="lms_tiers.plugins.s3.options:S3Options",
    summary="an S3 object store, shared by all who use it",
    example="s3:bucket/{tmp}?endpoint=http://127.0.0.1:9000",
    medium="shared",
    imports=("obstore",),
    extra="lms-tiers[s3]",
    probe="lms_tiers.plugins.s3.probe:probe",
    conformance="lms_conformance.remote.s3:harness",
)


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `s3`."""
    register(SPEC)
