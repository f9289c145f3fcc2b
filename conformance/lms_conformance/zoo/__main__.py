"""``python -m lms_conformance.zoo``: every mutant against the properties it names, and who else catches it."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Final

from lms_conformance.outcome import Result
from lms_conformance.spec import SPEC_VERSION, properties
from lms_conformance.zoo import jobs
from lms_conformance.zoo.hunt import Catch, asked_of_all, glance, references, uncovered, zoo_profile
from lms_conformance.zoo.markdown import to_markdown
from lms_conformance.zoo.mutant import mutants
from lms_conformance.zoo.notes import code

#: Seed of the references and of the matrix.
MATRIX_SEED: Final = 20

#: What a process that hunts answers.
Hunted = Future[tuple[str, dict[str, Result]]]


def main() -> int:
    """Exit status 0 when the references pass and every mutant is caught by the properties it names."""
    parser = argparse.ArgumentParser(prog="python -m lms_conformance.zoo", description=__doc__)
    parser.add_argument("--profile", default="ci", help="effort of the named catches")
    parser.add_argument("--seeds", default="20", help="comma-separated; each must catch every mutant")
    parser.add_argument("--named", action="store_true", help="only the named catches, without the matrix")
    parser.add_argument("--only", default="", help="comma-separated mutants; no references")
    parser.add_argument("--output", type=Path, help="write the page as Markdown")
    parser.add_argument("--state", type=Path, help="note each hunt here, and skip those that are noted")
    parser.add_argument("--code", action="store_true", help="print which kit this is, as the page tells it, and end")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="hunts at one time")
    arguments = parser.parse_args()
    if arguments.code:
        print(code())
        return 0
    with ProcessPoolExecutor(
        arguments.jobs, multiprocessing.get_context("forkserver"), jobs.begin, (arguments.state,)
    ) as pool:
        return _hunt_all(arguments, pool)


def _hunt_all(arguments: argparse.Namespace, pool: ProcessPoolExecutor) -> int:
    began = time.monotonic()
    effort = zoo_profile(arguments.profile)
    only = {name for name in arguments.only.split(",") if name}
    chosen = [m for m in mutants().values() if not only or m.name in only]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    # What is to come is handed over at once, so that no process waits while another ends a long hunt. The named catches
    # are the proof: they come first, where there is not time for all.
    by_seed = {seed: [pool.submit(jobs.hunt, m.name, m.kills, effort, seed) for m in chosen] for seed in seeds}
    correct = {} if only else {name: pool.submit(jobs.reference, name, effort, MATRIX_SEED) for name in references()}
    asked = [] if arguments.named else asked_of_all()
    whole = [pool.submit(jobs.hunt, m.name, (*m.kills, *asked), glance(), MATRIX_SEED) for m in chosen if asked]
    bad = 0
    named: dict[int, list[Catch]] = {}
    for seed, hunted in by_seed.items():
        named[seed] = list(_caught(hunted))
        bad += sum(_missed(catch, seed) for catch in named[seed])
        caught = sum(not c.missed for c in named[seed])
        print(f"seed {seed}: {caught} of {len(chosen)} mutants caught by name", flush=True)
    bad += sum(_reference_is_bad(name, future.result()) for name, future in correct.items())
    everything: list[Catch] = []
    for catch in _caught(whole):
        everything.append(catch)
        print(f"{catch.mutant.name:<40} {' '.join(catch.mutant.kills)}  also {' '.join(catch.also) or 'none'}")
    for k in () if only else uncovered(named[seeds[0]]):
        bad += 1
        print(f"{k} has no mutant")
    if arguments.output and everything:
        page = to_markdown(everything, named, arguments.profile, SPEC_VERSION, asked, code())
        arguments.output.write_text(page, encoding="utf-8")
    print(f"{len(chosen)} mutants, {len(properties())} properties, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def _caught(hunted: Iterable[Hunted]) -> Iterator[Catch]:
    for future in hunted:
        name, results = future.result()
        yield Catch(mutants()[name], results)


def _reference_is_bad(name: str, failed: list[str]) -> int:
    print(f"reference {name}: {'all pass' if not failed else 'fails'}", flush=True)
    for message in failed:
        print(message)
    return len(failed)


def _missed(catch: Catch, seed: int) -> int:
    for k in catch.missed:
        found = catch.results[k].status.value if k in catch.results else "does not apply"
        print(f"MISSED {catch.mutant.name} by {k}, seed {seed}: {found}", flush=True)
    return len(catch.missed)


if __name__ == "__main__":
    sys.exit(main())
