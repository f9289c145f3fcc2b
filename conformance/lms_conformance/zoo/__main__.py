"""``python -m lms_conformance.zoo``: every mutant against every property; prints and writes the matrix."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lms_conformance.spec import SPEC_VERSION, properties
from lms_conformance.zoo.hunt import Catch, glance, hunt, hunt_named, references, run_reference, uncovered, zoo_profile
from lms_conformance.zoo.markdown import to_markdown
from lms_conformance.zoo.mutant import mutants


def main() -> int:
    """Exit status 0 when the references pass and every mutant is caught by the properties it names."""
    parser = argparse.ArgumentParser(prog="python -m lms_conformance.zoo", description=__doc__)
    parser.add_argument("--profile", default="ci", help="effort of the named catches")
    parser.add_argument("--seeds", default="20", help="comma-separated; each must catch every mutant")
    parser.add_argument("--named", action="store_true", help="only the named catches, without the whole matrix")
    parser.add_argument("--only", default="", help="comma-separated mutants")
    parser.add_argument("--output", type=Path, help="write the matrix as Markdown")
    arguments = parser.parse_args()
    began = time.monotonic()
    effort = zoo_profile(arguments.profile)
    only = [name for name in arguments.only.split(",") if name]
    bad = 0
    if not only:
        for name in references():
            failed = [r for r in run_reference(name, effort, 20) if r.red]
            bad += len(failed)
            print(f"reference {name}: {'all pass' if not failed else ', '.join(r.id for r in failed)}", flush=True)
            for r in failed:
                print(r.message())
    for seed in map(int, arguments.seeds.split(",")):
        catches = hunt_named(effort, seed, only)
        for catch in catches:
            for k in catch.missed:
                bad += 1
                print(f"MISSED {catch.mutant.name} by {k}, seed {seed}: {catch.results[k].status.value}")
        print(f"seed {seed}: {sum(not c.missed for c in catches)} of {len(catches)} mutants caught by name", flush=True)
    everything: list[Catch] = []
    if not arguments.named:
        effort = glance()
        for m in mutants().values():
            if not only or m.name in only:
                catch = hunt(m, properties(), effort, 20)
                everything.append(catch)
                print(f"{m.name:<40} {' '.join(m.kills)}  also {' '.join(catch.also) or 'none'}", flush=True)
    without = [] if only else uncovered(hunted := everything or catches)
    for k in without:
        bad += 1
        print(f"{k} has no mutant")
    if arguments.output and everything:
        arguments.output.write_text(to_markdown(everything, SPEC_VERSION), encoding="utf-8")
    count = len(hunted) if not only else len(only)
    print(f"{count} mutants, {len(properties())} properties, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
