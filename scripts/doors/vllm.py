"""vLLM: the sources of its wheel, and stand-ins for what needs an accelerator to be imported."""

from __future__ import annotations

from typing import Final

from scripts.doors.engine import Engine

ENGINE: Final = Engine(
    name="vllm",
    package="vllm",
    newest="0.33.0",
    needs=("msgspec", "packaging", "prometheus_client", "psutil", "regex", "urllib3", "pyzmq"),
    sources=True,
    stubs="scripts/doors/stubs/vllm",
    tests="tests/doors/vllm",
    environ={"VLLM_LOGGING_LEVEL": "WARNING"},
)
