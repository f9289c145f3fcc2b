"""Places that the kit must not use: what it finds in one it overwrites and removes."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Final

from lms_conformance.chunks import Chunk, key
from lms_conformance.harness import Harness
from lms_tiers.errors import ConfigError, LmsTiersError
from lms_tiers.interface import LMSBackendInterface

#: The key of the one chunk that is put before a run to see whether two places are two.
_PROBE: Final = "lms-conformance@1@0@0@uint8"


def refuse_a_used_place(harness: Harness, backend: LMSBackendInterface) -> None:
    """Look into a place that has just been opened for the first time.

    Raises
    ------
    ConfigError
        Something is in it.
    """
    keys = backend.list_keys()
    if keys:
        raise ConfigError(
            f"the place of {harness.name} is not empty: it holds {len(keys)} keys, {keys[0].to_string()!r} for one. "
            "The kit overwrites and removes what it finds: name a place that nobody uses."
        )


def refuse_one_place_for_all(harness: Harness, capacity: int | None) -> None:
    """Put a chunk in one place and look for it in another.

    Raises
    ------
    ConfigError
        It is there: they are the same.
    """
    there = False
    with tempfile.TemporaryDirectory(prefix="lms-conformance-") as tmp:
        one, two = Path(tmp, "one"), Path(tmp, "two")
        for place in (one, two):
            place.mkdir()
        # What else is wrong with it is for the properties to tell.
        with contextlib.suppress(LmsTiersError):
            with harness.open(one, capacity) as backend:
                backend.put(Chunk(3, 8).message(key(_PROBE)), Chunk(3, 8).data())
            with harness.open(two, capacity) as backend:
                there = backend.contains(key(_PROBE))
                if there and backend.capabilities.remove:
                    backend.remove(key(_PROBE))
    if there:
        raise ConfigError(
            f"{harness.name} opens the same place each time: write {{tmp}} into its location or an option, such as a "
            "prefix, or let its BackendSpec name a harness that starts a server for each place."
        )
