"""The backend `redis`: Redis or Valkey, one server or a Cluster, as the place that a fleet shares. The spec only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import BackendSpec, hookimpl

SPEC: Final = BackendSpec(
    name="redis",
    factory="lms_tiers.plugins.redis.backend:open_backend",
    options="lms_tiers.plugins.redis.options:RedisOptions",
    summary="Redis or Valkey, one server or a Cluster, shared by all who use it",
    example="redis:127.0.0.1:6379?prefix={tmp}/",
    aliases=("valkey",),
    medium="shared",
    probe="lms_tiers.plugins.redis.probe:probe",
    conformance="lms_conformance.remote.redis:harness",
)


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `redis`."""
    register(SPEC)
