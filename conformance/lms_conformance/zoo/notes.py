"""What was hunted already, in a file of lines, so that a zoo that was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import lms_conformance
from lms_conformance.outcome import Result
from lms_conformance.profiles import Profile
from lms_conformance.spec import properties
from lms_conformance.zoo.hunt import Catch, hunt, run_reference
from lms_conformance.zoo.mutant import mutants

#: A hunt of many properties is noted under this name of theirs.
_MANY = 9


@lru_cache(maxsize=1)
def code() -> str:
    """Which kit this is: a digest of its own sources, committed or not."""
    here = Path(lms_conformance.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(here.rglob("*.py")):
        digest.update(f"{file.relative_to(here)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


class Notes:
    """Hunts and their results, by the code of the kit: what another kit noted is not known.

    Parameters
    ----------
    path : pathlib.Path, optional
        Nothing is kept without one.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                note = json.loads(line)
                if note.get("code") == code():
                    self._known[note["hunt"]] = note["results"]

    def hunt(self, name: str, ids: Sequence[str], effort: Profile, seed: int) -> Catch:
        """Run the properties on the mutant of that name, or tell what they said the last time."""
        known = {p.id: p for p in properties()}
        mutant = mutants()[name]
        found = self._noted(
            f"{name} {seed} {effort.examples} {','.join(ids) if len(ids) < _MANY else 'all'}",
            lambda: hunt(mutant, [known[k] for k in ids], effort, seed).results,
        )
        return Catch(mutant, found)

    def reference(self, name: str, effort: Profile, seed: int) -> list[Result]:
        """Run the properties on the correct backend of that name, or tell what they said the last time."""
        return list(
            self._noted(
                f"reference {name} {seed} {effort.examples}",
                lambda: {r.id: r for r in run_reference(name, effort, seed)},
            ).values()
        )

    def _noted(self, what: str, run: Callable[[], dict[str, Result]]) -> dict[str, Result]:
        if what in self._known:
            return {k: Result.from_json(r) for k, r in self._known[what].items()}
        results = run()
        if self._path is not None:
            told = {k: r.to_json() for k, r in results.items()}
            with self._path.open("a", encoding="utf-8") as file:  # one write: other processes note there, too
                file.write(json.dumps({"code": code(), "hunt": what, "results": told}) + "\n")
        return results
