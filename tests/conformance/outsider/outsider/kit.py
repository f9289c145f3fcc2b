"""How the kit opens it."""

from __future__ import annotations

import sys

from lms_conformance import ServerHarness

harness = ServerHarness([sys.executable, "-m", "outsider.server", "{port}"], device="outsider:{server}")
