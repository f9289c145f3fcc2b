"""vLLM's secondary tiers of its KV offloading, as its scheduler calls them."""

from __future__ import annotations

from typing import Final

from lms_conformance.adapters.interface import Rules

RULES: Final = Rules("vllm-tier", {"failing": "no options were given under which its medium fails"})
