"""How much a run does: the quick, ci and nightly profiles. Each runs every property; they differ in examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lms_tiers.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Effort.

    Attributes
    ----------
    name : str
    examples : int
        Drawn examples of a property of weight 1, where a backend opens in no time.
    example_seconds : float
        After these seconds, or as much longer as the machine is busy, a property draws no further example, once it has
        run `least`.
    least : int
        Examples that run whatever they cost.
    shrink_seconds : float
        Time to make a failing program small.
    rounds : int
        Concurrent programs of a concurrency property.
    crashes : int
        Processes killed by a crash property.
    many_keys : int
        Keys of the largest listing.
    hang_seconds : float
        A property that makes no call for so long is reported as hung, and one that goes on ten times as long.
    randomised : bool
        A new seed each run, and an example database.
    in_memory : bool
        Places are made in memory where it has room, except where a property is about what outlives a process.
    """

    name: str
    examples: int
    example_seconds: float
    least: int
    shrink_seconds: float
    rounds: int
    crashes: int
    many_keys: int
    hang_seconds: float
    randomised: bool = False
    in_memory: bool = False


PROFILES: Final[Mapping[str, Profile]] = {
    "quick": Profile(
        name="quick", examples=20, example_seconds=0.5, least=8, shrink_seconds=1.0, rounds=25, crashes=3,
        many_keys=2000, hang_seconds=60, in_memory=True,
    ),
    "ci": Profile(
        name="ci", examples=60, example_seconds=1.5, least=20, shrink_seconds=3.0, rounds=60, crashes=6,
        many_keys=10000, hang_seconds=120,
    ),
    "nightly": Profile(
        name="nightly", examples=2000, example_seconds=60, least=80, shrink_seconds=60.0, rounds=1500, crashes=60,
        many_keys=10000, hang_seconds=900, randomised=True,
    ),
}  # fmt: skip


def profile(name: str) -> Profile:
    """The profile of that name.

    Raises
    ------
    ConfigError
        There is none.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise ConfigError(f"there is no profile {name!r}.", unknown=name, known=PROFILES) from None
