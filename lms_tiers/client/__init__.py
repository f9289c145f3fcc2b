"""The client of an lm:// server: this project's, or LMCache's own. Knows the wire, not the server."""

from __future__ import annotations

from lms_tiers.client.client import Client

__all__ = ["Client"]
