"""Reports read from files, and told apart by what was tried and when."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lms_conformance.outcome import Report, Result
from lms_conformance.reports import from_json, to_json
from lms_conformance.spec import FAMILIES
from lms_tiers.errors import ConfigError


@dataclass(frozen=True)
class Run:
    """One report."""

    report: Report

    @cached_property
    def name(self) -> str:
        """Of this run among those of its subject: when it began, and a digest of what it found."""
        return f"{_plain(self.report.started)}-{_digest(to_json(self.report))}"

    @cached_property
    def results(self) -> dict[str, Result]:
        """By property."""
        return {r.id: r for r in self.report.results}

    def changes(self, before: Run) -> tuple[list[str], list[str]]:
        """Properties that turned red, and those that were red and are not, since an earlier run."""
        was = {r.id for r in before.report.results if r.red}
        now = {r.id for r in self.report.results if r.red}
        return sorted(now - was), sorted(was & self.results.keys() - now)


@dataclass(frozen=True)
class Subject:
    """What was tried, and every run of it, the newest first.

    Attributes
    ----------
    name : str
        As the reports call it: a plugin's name, a device, an adapter.
    slug : str
        In addresses: the name where it is plain, else what is plain of it and a digest. It depends on the name alone,
        so that a badge's address stays.
    """

    name: str
    slug: str
    runs: tuple[Run, ...]

    @property
    def newest(self) -> Run:
        """What the board tells of."""
        return self.runs[0]

    def since(self, id: str) -> Run:
        """The first of the runs in a row, up to the newest, in which a property ended as it does now."""
        status, first = self.newest.results[id].status, self.newest
        for run in self.runs[1:]:
            if id not in run.results or run.results[id].status is not status:
                break
            first = run
        return first


@dataclass(frozen=True)
class Board:
    """Every subject, by name."""

    subjects: tuple[Subject, ...]

    @cached_property
    def families(self) -> list[str]:
        """Those that occur: the kit's in its order, then others by name."""
        seen = {r.family for s in self.subjects for r in s.newest.report.results}
        return [f for f in FAMILIES if f in seen] + sorted(seen - FAMILIES.keys())

    @cached_property
    def properties(self) -> dict[str, str]:
        """Each property that occurs and its sentence, as the newest spec says it, in the order of the families."""
        sentences: dict[str, tuple[str, str]] = {}
        for subject in self.subjects:
            report = subject.newest.report
            for r in report.results:
                sentences[r.id] = max(sentences.get(r.id, ("", "")), (report.spec, r.sentence))
        order = {family: at for at, family in enumerate(self.families)}
        return {id: sentences[id][1] for id in sorted(sentences, key=lambda id: (order[id.partition("-")[0]], id))}


def collect(places: Iterable[Path]) -> Board:
    """Read every ``*.json`` below the directories and each file named; a report that lies there twice counts once.

    Raises
    ------
    ConfigError
        A file is no report, a place is not there, or there is no report at all.
    """
    found: dict[str, dict[str, Run]] = {}
    for path in _files(places):
        run = Run(_read(path))
        found.setdefault(run.report.subject, {})[run.name] = run
    if not found:
        raise ConfigError("there is no report to show: write some with `lms-tiers conform NAME --json FILE`.")
    subjects = (
        Subject(
            name, slug(name), tuple(sorted(runs.values(), key=lambda run: (run.report.started, run.name), reverse=True))
        )
        for name, runs in sorted(found.items())
    )
    return Board(tuple(subjects))


def slug(name: str) -> str:
    """A name for addresses and files."""
    plain = _plain(name)[:60]
    return plain if plain == name else f"{plain}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(place.rglob("*.json"))
        elif place.is_file():
            yield place
        else:
            raise ConfigError(f"there is no report at {place}.")


def _read(path: Path) -> Report:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no report of `conform --json`: {type(error).__name__}: {error}.") from error
