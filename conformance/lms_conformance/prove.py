"""`--prove`: plant known bugs in the user's own backend, and show that the kit catches each of them there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from lms_conformance.engine import Engine
from lms_conformance.harness import Harness
from lms_conformance.outcome import Report, Result, Status
from lms_conformance.profiles import profile
from lms_conformance.run import introduce
from lms_conformance.spec import Property, features, properties
from lms_conformance.zoo.harnesses import ProvenHarness
from lms_conformance.zoo.hunt import caught
from lms_conformance.zoo.mutant import Mutant, mutants


@dataclass(frozen=True, slots=True)
class Proof:
    """One planted bug."""

    mutant: Mutant
    id: str
    result: Result

    @property
    def caught(self) -> bool:
        """Whether the property failed by its assertion."""
        return caught(self.result)


def plant(harness: Harness, report: Report, on_proof: Callable[[Proof], None] | None = None) -> list[Proof]:
    """Wrap the backend in each generic mutator and run the property that must catch it.

    Only properties that the backend itself passed are tried: what fails already proves nothing.
    """
    caps = introduce(harness).capabilities
    have = features(caps, harness)
    known = {p.id: p for p in properties()}
    passed = {r.id for r in report.results if r.status is Status.PASSED}
    effort = dataclasses.replace(profile("ci"), shrink_seconds=0.2)
    proofs = []
    for mutant in mutants().values():
        for k in mutant.kills if mutant.generic else ():
            if k in passed and _fits(mutant, known[k], have):
                engine = Engine(ProvenHarness(harness, mutant.name), caps, have, effort, report.seed)
                proof = Proof(mutant, k, engine.run(known[k]))
                proofs.append(proof)
                if on_proof is not None:
                    on_proof(proof)
    return proofs


def _fits(mutant: Mutant, p: Property, have: frozenset[str]) -> bool:
    """Whether the mutator's bug can show in this backend."""
    if p.not_applicable(have) is not None:
        return False
    return mutant.name not in _NEED_REMOVE or "remove" in have


#: Mutators that call `remove` of the backend they wrap.
_NEED_REMOVE = frozenset({"drops-before-it-checks", "removes-before-it-stores", "empties-a-batch-first"})


def prove(harness: Harness, report: Report, on_result: Callable[[str], None] | None = None) -> bool:
    """Plant, tell, and answer whether every planted bug was caught."""

    def tell(proof: Proof) -> None:
        if on_result is not None and not proof.caught:
            on_result(f"not caught: {proof.mutant.name} ({proof.mutant.sentence}) by {proof.id}")

    proofs = plant(harness, report, tell)
    good = sum(p.caught for p in proofs)
    if on_result is not None:
        on_result(
            f"planted {len(proofs)} known bugs in {harness.name}: {good} caught, each by its property's assertion"
        )
    return good == len(proofs) and bool(proofs)
