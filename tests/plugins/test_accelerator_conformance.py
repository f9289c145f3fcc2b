"""The conformance kit over the bare arena backends: on host memory, and on the accelerator where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lms_conformance import conformance_suite

from lms_tiers.device import parse_device
from lms_tiers.factory import open_backend
from lms_tiers.interface import LMSBackendInterface

#: Whole runs of the kit.
pytestmark = pytest.mark.deep

DEFAULT = 64 << 20


def open_pinned(path: Path, capacity: int | None) -> LMSBackendInterface:
    return open_backend(parse_device(f"pinned?capacity={capacity or DEFAULT}B").tiers[0])


def open_arena_on_cpu(path: Path, capacity: int | None) -> LMSBackendInterface:
    return open_backend(parse_device(f"gpu:cpu?capacity={capacity or DEFAULT}B").tiers[0])


def open_gpu(path: Path, capacity: int | None) -> LMSBackendInterface:
    return open_backend(parse_device(f"gpu:0?capacity={capacity or DEFAULT}B").tiers[0])


TestPinned = conformance_suite(open_pinned, profile="quick")
TestArenaOnCpu = conformance_suite(open_arena_on_cpu, profile="quick")
TestGpu = pytest.mark.skipif(not torch.accelerator.is_available(), reason="torch sees no accelerator on this machine")(
    conformance_suite(open_gpu, profile="quick")
)
