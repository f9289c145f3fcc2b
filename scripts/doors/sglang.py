"""SGLang: the sources of its wheel, and stand-ins for what needs an accelerator to be imported."""

from __future__ import annotations

from typing import Final

from scripts.doors.engine import Engine

ENGINE: Final = Engine(
    name="sglang",
    package="sglang",
    newest="0.5.23",
    needs=(
        "msgspec", "orjson", "packaging", "pillow", "psutil", "pybase64", "pyzmq", "requests", "starlette", "urllib3",
    ),
    sources=True,
    stubs="scripts/doors/stubs/sglang",
    tests="tests/doors/sglang",
)  # fmt: skip
