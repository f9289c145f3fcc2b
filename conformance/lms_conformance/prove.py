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


@dataclass(frozen=True, slots=True)
class Unplanted:
    """A known bug that was not planted for a property, and why."""

    mutant: Mutant
    id: str
    reason: str


def plant(
    harness: Harness,
    report: Report,
    on_proof: Callable[[Proof], None] | None = None,
    on_left_out: Callable[[Unplanted], None] | None = None,
) -> list[Proof]:
    """Wrap the backend in each generic mutator and run the property that must catch it.

    Only properties that the backend itself passed are tried: what fails already proves nothing.
    """
    caps = introduce(harness).capabilities
    have = features(caps, harness)
    known = {p.id: p for p in properties()}
    results = {r.id: r for r in report.results}
    # As many tries on a busy machine as on an idle one: most end with the first.
    effort = dataclasses.replace(profile("ci"), shrink_seconds=0.2, example_seconds=60.0)
    proofs = []
    for mutant in mutants().values():
        for k in mutant.kills:
            reason = _why_not(mutant, known[k], results.get(k), have)
            if reason is not None:
                if on_left_out is not None and k in results:
                    on_left_out(Unplanted(mutant, k, reason))
                continue
            engine = Engine(ProvenHarness(harness, mutant.name), caps, have, effort, report.seed)
            proof = Proof(mutant, k, engine.run(known[k]))
            proofs.append(proof)
            if on_proof is not None:
                on_proof(proof)
    return proofs


def _why_not(mutant: Mutant, p: Property, result: Result | None, have: frozenset[str]) -> str | None:
    """Why a mutator's bug cannot show in this backend; None where it can."""
    if (missing := p.not_applicable(have)) is not None:
        return f"{p.id} does not apply: {missing}"
    if not mutant.generic:
        return "it is a bug of the inside of a backend, which no wrapper can plant"
    if mutant.name in _NEED_REMOVE and "remove" not in have:
        return "it breaks `remove`, which the backend does not declare"
    if result is None or result.status is not Status.PASSED:
        return f"{p.id} {'did not run' if result is None else f'is {result.status.value}'}: nothing to compare with"
    return None


#: Mutators that call `remove` of the backend they wrap.
_NEED_REMOVE = frozenset({"drops-before-it-checks", "removes-before-it-stores", "empties-a-batch-first"})


def prove(harness: Harness, report: Report, on_result: Callable[[str], None] | None = None) -> bool:
    """Plant, tell, and answer whether every planted bug was caught."""

    def tell(proof: Proof) -> None:
        if on_result is not None and not proof.caught:
            on_result(f"not caught: {proof.mutant.name} ({proof.mutant.sentence}) by {proof.id}")

    left_out: dict[str, list[str]] = {}

    def note(unplanted: Unplanted) -> None:
        left_out.setdefault(unplanted.reason, []).append(f"{unplanted.mutant.name} ({unplanted.id})")

    try:
        proofs = plant(harness, report, tell, note)
    finally:
        harness.end()
    good = sum(p.caught for p in proofs)
    if on_result is not None:
        for reason, names in left_out.items():
            on_result(f"not planted, {len(names)}: {reason}: {', '.join(names)}")
        on_result(
            f"planted {len(proofs)} known bugs in {harness.name}: {good} caught, each by its property's assertion"
        )
    return good == len(proofs) and bool(proofs)
