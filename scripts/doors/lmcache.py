"""LMCache: installed without its dependencies; what it needs to be imported for the CPU is named here."""

from __future__ import annotations

from typing import Final

from scripts.doors.engine import Engine

ENGINE: Final = Engine(
    name="lmcache",
    package="lmcache",
    newest="0.5.6",
    needs=(
        "numpy<=2.2.6", "pyyaml", "psutil", "nvtx", "msgspec", "aiofiles", "aiofile", "prometheus_client<=0.24.1",
        "pyzmq", "sortedcontainers", "blake3", "cachetools", "httpx", "aiohttp", "py-cpuinfo", "redis", "safetensors",
        "opentelemetry-api<=1.40.0", "opentelemetry-sdk", "opentelemetry-exporter-prometheus",
        "opentelemetry-exporter-otlp-proto-grpc", "numba", "requests", "transformers", "cryptography", "fastapi",
        "uvicorn",
    ),
    sources=False,
    tests="tests/doors/lmcache",
    environ={"PYTHONHASHSEED": "0"},
)  # fmt: skip
