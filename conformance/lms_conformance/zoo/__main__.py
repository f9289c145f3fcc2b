"""``python -m lms_conformance.zoo``: every mutant against every property; prints and writes the matrix."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from lms_conformance.profiles import Profile
from lms_conformance.spec import SPEC_VERSION, properties
from lms_conformance.zoo.hunt import Catch, glance, references, run_reference, uncovered, zoo_profile
from lms_conformance.zoo.markdown import to_markdown
from lms_conformance.zoo.mutant import mutants
from lms_conformance.zoo.notes import Notes

#: Seed of the references and of the whole matrix.
MATRIX_SEED: Final = 20


def main() -> int:
    """Exit status 0 when the references pass and every mutant is caught by the properties it names."""
    parser = argparse.ArgumentParser(prog="python -m lms_conformance.zoo", description=__doc__)
    parser.add_argument("--profile", default="ci", help="effort of the named catches")
    parser.add_argument("--seeds", default="20", help="comma-separated; each must catch every mutant")
    parser.add_argument("--named", action="store_true", help="only the named catches, without the whole matrix")
    parser.add_argument("--only", default="", help="comma-separated mutants")
    parser.add_argument("--output", type=Path, help="write the matrix as Markdown")
    parser.add_argument("--state", type=Path, help="note each hunt here, and skip those that are noted")
    arguments = parser.parse_args()
    began = time.monotonic()
    effort = zoo_profile(arguments.profile)
    only = {name for name in arguments.only.split(",") if name}
    chosen = [m for m in mutants().values() if not only or m.name in only]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    notes = Notes(arguments.state)
    bad = 0 if only else _references(effort)
    named: dict[int, list[Catch]] = {}
    for seed in seeds:
        named[seed] = [notes.hunt(m, m.kills, effort, seed) for m in chosen]
        bad += sum(map(_missed, named[seed], [seed] * len(chosen)))
        caught = sum(not c.missed for c in named[seed])
        print(f"seed {seed}: {caught} of {len(chosen)} mutants caught by name", flush=True)
    everything: list[Catch] = []
    for m in chosen if not arguments.named else ():
        everything.append(notes.hunt(m, [p.id for p in properties()], glance(), MATRIX_SEED))
        also = " ".join(everything[-1].also) or "none"
        print(f"{m.name:<40} {' '.join(m.kills)}  also {also}", flush=True)
    for k in () if only else uncovered(named[seeds[0]]):
        bad += 1
        print(f"{k} has no mutant")
    if arguments.output and everything:
        arguments.output.write_text(to_markdown(everything, named, arguments.profile, SPEC_VERSION), encoding="utf-8")
    print(f"{len(chosen)} mutants, {len(properties())} properties, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def _references(effort: Profile) -> int:
    bad = 0
    for name in references():
        failed = [r for r in run_reference(name, effort, MATRIX_SEED) if r.red]
        bad += len(failed)
        print(f"reference {name}: {'all pass' if not failed else ', '.join(r.id for r in failed)}", flush=True)
        for r in failed:
            print(r.message())
    return bad


def _missed(catch: Catch, seed: int) -> int:
    for k in catch.missed:
        print(f"MISSED {catch.mutant.name} by {k}, seed {seed}: {catch.results[k].status.value}", flush=True)
    return len(catch.missed)


if __name__ == "__main__":
    sys.exit(main())
