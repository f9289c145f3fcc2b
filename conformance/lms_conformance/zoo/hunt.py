"""Runs properties on references and mutants, and says who catches whom."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lms_conformance.engine import Engine
from lms_conformance.harness import Harness
from lms_conformance.outcome import Result, Status
from lms_conformance.profiles import Profile, profile
from lms_conformance.run import introduce
from lms_conformance.spec import Property, features, properties
from lms_conformance.zoo.harnesses import REFERENCES, MutantHarness, ReferenceHarness
from lms_conformance.zoo.mutant import Mutant


@dataclass(slots=True)
class Catch:
    """What the properties said of one mutant.

    Attributes
    ----------
    mutant : Mutant
    results : dict of str to Result
        By property.
    """

    mutant: Mutant
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        """Properties that had to catch it by assertion and did not."""
        return [k for k in self.mutant.kills if k not in self.results or not caught(self.results[k])]

    @property
    def also(self) -> list[str]:
        """Other properties that caught it."""
        return [k for k, r in self.results.items() if k not in self.mutant.kills and caught(r)]


def caught(result: Result) -> bool:
    """Whether a property's own check failed: neither a crash nor a hang of the suite counts."""
    return result.status is Status.FAILED and result.kind == "assertion"


def zoo_profile(name: str = "ci") -> Profile:
    """The profile with little shrinking and places in memory: the zoo asks whether, not how."""
    return dataclasses.replace(profile(name), shrink_seconds=0.2, in_memory=True)


def glance() -> Profile:
    """Little effort, for the whole matrix: who else catches a mutant is told, not required."""
    return dataclasses.replace(
        zoo_profile("quick"), examples=8, least=4, example_seconds=0.3, rounds=9, crashes=1, many_keys=1200,
        hang_seconds=25,
    )  # fmt: skip


_DEAR: Final = """
KEY-10 KEY-11 KEY-12 KEY-13 KEY-14 PUT-01 PUT-03 PUT-10 PUT-11 PUT-12 PUT-14 PUT-15 PUT-16 OVR-06 OVR-08 OVR-09 RMV-05
RMV-08 RMV-09 LST-03 LST-04 LST-07 CNT-01 CNT-04 CNT-06 BAT-01 BAT-02 BAT-05 BAT-08 BAT-09 OPT-01 OPT-02 OPT-03 OPT-04
OPT-05 OPT-06 OPT-09 OPT-11 ALI-07 ERR-06 LIF-03 LIF-04 LIF-10 LIF-11 LIF-12 CAP-01 CAP-02 CAP-03 CAP-04 CAP-05 CAP-06
CAP-07 CAP-08 CAP-09 CAP-11 CAP-12 EVI-02 EVI-05 EVI-06 EVI-09 EVI-10 PER-01 PER-07 PER-11 CRA-01 CRA-02 CRA-03 CRA-04
CRA-05 CRA-07 CRA-09 CON-01 CON-02 CON-03 CON-04 CON-05 CON-06 CON-07 CON-08 CON-09 CON-10 RES-01 RES-02 RES-03 RES-04
RES-05 RES-06 RES-07 RES-08 RES-09 RES-10 RES-11 RES-12 RES-13 TEN-08 SHR-05 SHR-07 SHR-08 SHR-09 SHR-11 LIV-05 PWR-01
PWR-02 PWR-03 PWR-04 PWR-05 UPG-01 UPG-02 UPG-03 UPG-04
"""

#: Properties that take more than some hundredths of a second of a correct backend even at a glance: to ask them of
#: every mutant would be nine tenths of the matrix.
DEAR: Final = frozenset(_DEAR.split())


def asked_of_all() -> list[str]:
    """The properties of which the matrix asks every mutant; of the others it asks those that name them."""
    return [p.id for p in properties() if p.id not in DEAR]


def engine_of(harness: Harness, effort: Profile, seed: int) -> Engine:
    """An engine for a harness of the zoo."""
    caps = introduce(harness).capabilities
    return Engine(harness, caps, features(caps, harness), effort, seed)


def hunt(mutant: Mutant, chosen: Iterable[Property], effort: Profile, seed: int) -> Catch:
    """Run properties on one mutant."""
    engine = engine_of(MutantHarness(mutant.name), effort, seed)
    catch = Catch(mutant)
    for p in chosen:
        if p.not_applicable(engine.have) is None:
            catch.results[p.id] = engine.run(p)
    _sweep()
    return catch


def run_reference(name: str, effort: Profile, seed: int, *, spread: bool = False) -> list[Result]:
    """The properties that apply to a correct backend, run on it.

    Parameters
    ----------
    spread : bool
        Leave out those that apply to a reference before it: the references together run each property once.
    """
    engine = engine_of(ReferenceHarness(name), effort, seed)
    before = references()[: references().index(name)] if spread else []
    others = [engine_of(ReferenceHarness(other), effort, seed).have for other in before]
    results = []
    for p in properties():
        if p.not_applicable(engine.have) is None and all(p.not_applicable(have) for have in others):
            results.append(engine.run(p))
    return results


def references() -> list[str]:
    """Names of the correct backends."""
    return list(REFERENCES)


def uncovered(catches: Iterable[Catch]) -> list[str]:
    """Properties that no mutant names."""
    named = {k for c in catches for k in c.mutant.kills}
    return [p.id for p in properties() if p.id not in named]


def _sweep() -> None:
    """Remove what mutants left in shared memory."""
    for file in Path("/dev/shm").glob(f"lms-zoo-{os.getpid()}-*"):
        with contextlib.suppress(OSError):
            file.unlink()


def matrix(catches: Iterable[Catch]) -> Mapping[str, dict[str, list[str]]]:
    """Per property: the mutants it must catch, and those it caught as well."""
    found: dict[str, dict[str, list[str]]] = {p.id: {"named": [], "also": []} for p in properties()}
    for catch in catches:
        for k in catch.mutant.kills:
            found[k]["named"].append(catch.mutant.name)
        for k in catch.also:
            found[k]["also"].append(catch.mutant.name)
    return found
