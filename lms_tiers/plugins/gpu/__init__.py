"""The backend `gpu`: chunks in one arena of device memory. The spec only; nothing here imports torch or CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import BackendSpec, hookimpl

SPEC: Final = BackendSpec(
    name="gpu",
    factory="lms_tiers.plugins.gpu.backend:open_backend",
    options="lms_tiers.plugins.gpu.backend:GpuOptions",
    summary="accelerator memory (CUDA, ROCm, XPU), taken whole at start; gpu:cpu runs the same code on host memory",
    example="gpu:0?capacity={capacity}",
    aliases=("cuda",),
)


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `gpu`."""
    register(SPEC)
