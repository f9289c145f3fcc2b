"""Against LMCache itself: `make doors` makes the environment for it; without LMCache these are skipped."""

from __future__ import annotations

import pytest

lmcache = pytest.importorskip("lmcache.v1.distributed.l2_adapters.base", reason="LMCache is not installed: make doors")


def test_the_interface_of_adapters_can_be_imported() -> None:
    assert lmcache.L2AdapterInterface.__abstractmethods__
