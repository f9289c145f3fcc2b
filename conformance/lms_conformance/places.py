"""Where the kit makes places, and those that it must not use: what it finds in one it overwrites and removes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

from lms_conformance.chunks import Chunk, key
from lms_conformance.harness import Harness
from lms_conformance.profiles import Profile
from lms_tiers.errors import ConfigError, LmsTiersError
from lms_tiers.interface import LMSBackendInterface

#: The key of the one chunk that is put before a run to see whether two places are two.
_PROBE: Final = "lms-conformance@1@0@0@uint8"

#: A file system in memory, and the bytes that must be free there for its use: a container may have 64 MiB.
_MEMORY: Final = "/dev/shm"
_ROOM: Final = 2 << 30

#: Names the folder in memory to use; empty: none.
VARIABLE: Final = "LMS_CONFORMANCE_MEMORY"

#: What these are about is what outlives a process: their places are where a user's are.
_ON_DISK: Final = frozenset({"PER", "CRA", "UPG", "DOR"})


def memory() -> str | None:
    """A folder whose files are in memory; None where there is none with room."""
    told = os.environ.get(VARIABLE)
    if told is not None:
        return told or None
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return None
    return _MEMORY if found.f_bavail * found.f_frsize >= _ROOM and os.access(_MEMORY, os.W_OK) else None


def folder_of(family: str, profile: Profile) -> str | None:
    """Where the places of a family's properties are made; None: where temporary files are.

    A sync of a file in memory costs nothing, and nothing that this machine survives tells it from one on a disk.
    """
    return memory() if profile.in_memory and family not in _ON_DISK else None


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
