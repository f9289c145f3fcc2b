"""What was hunted already, in a file of lines, so that a zoo that was interrupted goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lms_conformance.outcome import Result
from lms_conformance.profiles import Profile
from lms_conformance.spec import properties
from lms_conformance.zoo.hunt import Catch, hunt
from lms_conformance.zoo.mutant import Mutant


class Notes:
    """Hunts and their results.

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
                self._known[note["hunt"]] = note["results"]

    def hunt(self, mutant: Mutant, ids: Iterable[str], effort: Profile, seed: int) -> Catch:
        """Run the properties on the mutant, or tell what they said the last time."""
        known = {p.id: p for p in properties()}
        chosen = [known[k] for k in ids]
        name = f"{mutant.name} {seed} {effort.examples} {','.join(p.id for p in chosen) if len(chosen) < 9 else 'all'}"
        if name in self._known:
            return Catch(mutant, {k: Result.from_json(r) for k, r in self._known[name].items()})
        catch = hunt(mutant, chosen, effort, seed)
        if self._path is not None:
            results = {k: r.to_json() for k, r in catch.results.items()}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"hunt": name, "results": results}) + "\n")
        return catch
