"""Which tests of `gpu` need an accelerator."""

from __future__ import annotations

import pytest
import torch

ACCELERATOR = torch.accelerator.is_available()
needs_accelerator = pytest.mark.skipif(not ACCELERATOR, reason="torch sees no accelerator on this machine")
needs_none = pytest.mark.skipif(ACCELERATOR, reason="this machine has an accelerator")
