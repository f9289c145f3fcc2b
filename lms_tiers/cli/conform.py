"""`lms-tiers conform`: prove that a backend or a device keeps the contract."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from lms_tiers.errors import ConfigError

if TYPE_CHECKING:
    from lms_conformance.harness import Harness
    from lms_conformance.outcome import Report, Result


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("conform")(conform)


def conform(
    subject: Optional[str] = typer.Argument(
        None,
        metavar="DEVICE_OR_NAME",
        help="A registered backend, or a device text; {tmp}, {capacity} and {server} are filled in.",
    ),
    profile: str = typer.Option("ci", help="quick, ci or nightly."),
    only: list[str] = typer.Option([], help="A property ID or a family; may be repeated."),
    seed: Optional[int] = typer.Option(None, help="Repeats a run; nightly draws one."),
    spec: str = typer.Option("1.1", help="The spec version that gates; what came with it, or later, warns."),
    strict: bool = typer.Option(False, "--strict", help="What would only warn under the spec fails."),
    reproduce: Optional[Path] = typer.Option(
        None,
        help="A report as JSON: its run again: device, seed, profile, spec, examples, and properties (or --only).",
    ),
    waivers: Optional[Path] = typer.Option(None, help="TOML file of \\[\\[waiver]] tables: property, reason, expires."),
    before: Optional[str] = typer.Option(
        None, "--from", help="The release before, as pip takes it (mine==0.3, a wheel, a path): the family UPG asks it."
    ),
    same: list[str] = typer.Option(
        [],
        help="Another device that must answer alike; may be repeated. No property is run, but drawn histories on all.",
    ),
    prove: bool = typer.Option(
        False, "--prove", help="Also plant known bugs in the backend, and show that each is caught."
    ),
    json: Optional[Path] = typer.Option(None, help="Write the report as JSON; - is standard output."),
    html: Optional[Path] = typer.Option(None, help="Write the report as a page."),
    junit: Optional[Path] = typer.Option(None, help="Write the report as JUnit XML."),
    badge: Optional[Path] = typer.Option(None, help="Write the badge as JSON for shields.io."),
    interface: Optional[str] = typer.Option(
        None,
        "--as",
        help="Try SUBJECT, package.module:Class or a name that the engine knows, as an adapter of that "
        "engine: hicache, lmcache-connector, lmcache-l2 or vllm-tier. The engine has to be importable here.",
    ),
    options: str = typer.Option("{}", help="With --as: the adapter's options as JSON; {tmp} is a fresh directory."),
    failing: Optional[str] = typer.Option(None, help="With --as: options under which its medium fails at random."),
    stalling: Optional[str] = typer.Option(
        None, help="With --as: options under which its medium keeps every call waiting for some seconds."
    ),
) -> None:
    """Prove that a backend keeps the contract.

    Exit status 0 if it does, 1 if not, 2 if it could not be tried.
    """
    kit = _kit()
    from lms_conformance.devices import harness_for
    from lms_conformance.waivers import read_waivers

    from lms_tiers.cli.output import check_output
    from lms_tiers.errors import ConfigError

    outputs = (json, html, junit, badge)
    for path in outputs:
        check_output(path)
    chosen = {"profile": profile, "seed": seed, "only": only, "spec": spec, "strict": strict}
    past = None
    if reproduce is not None:
        from lms_conformance.reproduce import read_past, told

        past, subject = read_past(reproduce, subject)
        chosen = past.options | ({"only": only} if only else {})
        for note in past.notes():
            typer.echo(f"note: {note}", err=True)
    if subject is None:
        raise ConfigError("name a backend or a device, or a report with --reproduce.")
    if interface is not None and (prove or same or before or reproduce is not None):
        raise ConfigError("--prove, --same, --from and --reproduce know backends only: leave them out, or --as.")
    harness: Any
    if interface is None:
        harness = harness_for(subject)
    else:
        harness = _adapter(interface, subject, options, failing, stalling)
    if same:
        raise typer.Exit(_compare([harness, *map(harness_for, same)], profile, seed))
    granted = read_waivers(waivers) if waivers else []
    quiet = any(str(path) == "-" for path in outputs)
    view = _Progress(quiet)
    try:
        if interface is not None:
            from lms_conformance.adapters.run import run_adapter

            with _unlogged():
                report = run_adapter(
                    harness, profile=profile, seed=seed, only=only, waivers=granted, on_result=view.show
                )  # fmt: skip
        else:
            with _predecessor(harness, before):
                report = kit.run_supervised(
                    harness, waivers=granted, on_result=view.show, examples=Path(".lms-conformance") / "examples",
                    **chosen,
                )  # fmt: skip
    except kit.ConformanceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    view.end(report)
    _write(report, json, html, junit, badge)
    if past is not None:
        for line in told(past, report):
            typer.echo(line, err=quiet)
    proven = True
    if prove:
        from lms_conformance.prove import prove as run_prove

        proven = run_prove(harness, report, on_result=None if quiet else typer.echo)
    raise typer.Exit(0 if report.ok and proven else 1)


def _compare(harnesses: list[Harness], profile: str, seed: int | None) -> int:
    """Drawn histories over all devices; the exit status."""
    from lms_conformance.run import DEFAULT_SEED
    from lms_conformance.same import compare

    found = compare(harnesses, effort=profile, seed=DEFAULT_SEED if seed is None else seed)
    if found.difference is None:
        typer.secho(f"{len(found.devices)} devices answer alike in {found.histories} histories", fg=typer.colors.GREEN)
        return 0
    typer.echo(found.difference)
    typer.secho("they do not answer alike", fg=typer.colors.RED)
    return 1


@contextlib.contextmanager
def _predecessor(harness: Harness, requirement: str | None) -> Iterator[None]:
    """The release before, installed and known to the harness for the block, where one is named."""
    if requirement is None:
        yield
        return
    from lms_conformance.upgrade.environment import release

    with release(requirement) as harness.predecessor:
        yield


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Without a line for each miss, and for each fault that the kit makes, as engines write them."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _adapter(name: str, subject: str, options: str, failing: str | None, stalling: str | None) -> Any:
    """The harness of an adapter, where its engine is."""
    from lms_conformance.adapters.interface import interface

    of = interface(name)
    missing = of.missing()
    if missing is not None:
        typer.echo(f"error: {missing}.\nRun this where {of.engine} is installed: docs/conformance.md.", err=True)
        raise typer.Exit(2)
    sick = None if failing is None else _object(failing, "--failing")
    slow = None if stalling is None else _object(stalling, "--stalling")
    return of.harness(subject, _object(options, "--options"), sick, slow)


def _object(text: str, option: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option} is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f'{option} must be a JSON object, as {{"place": "{{tmp}}/kv"}}.')
    return value


def _kit() -> Any:
    try:
        import hypothesis  # noqa: F401
        import lms_conformance
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed: `pip install 'lms-tiers[conformance]'` brings the kit."
        ) from None
    except ImportError as error:
        raise ConfigError(f"the kit cannot be imported: {error}") from None
    return lms_conformance


class _Progress:
    """One line per family, growing a mark per property; failures in full at the end."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.family = ""

    def show(self, r: Result) -> None:
        """A mark for one result."""
        if self.quiet:
            return
        if r.family != self.family:
            from lms_conformance.spec import TITLES

            width = 1 + max(map(len, TITLES.values()))
            typer.echo(("" if not self.family else "\n") + f"{r.family}  {TITLES[r.family]:<{width}}", nl=False)
            self.family = r.family
        mark, colour = "✓", typer.colors.GREEN
        if r.red:
            mark, colour = f" {r.id}✗ ", typer.colors.RED
        elif r.status.value == "not applicable":
            mark, colour = "–", typer.colors.BRIGHT_BLACK
        elif r.status.value.startswith("vacuous"):
            mark, colour = f" {r.id}○ ", typer.colors.YELLOW
        elif r.status.value != "passed":
            mark, colour = f" {r.id}≈ ", typer.colors.YELLOW
        elif r.cut:
            colour = typer.colors.YELLOW
        typer.secho(mark, fg=colour, nl=False)

    def end(self, report: Report) -> None:
        """The failures, the waivers, and the verdict."""
        if self.quiet:
            return
        typer.echo("\n")
        for r in report.results:
            if r.red:
                typer.echo(r.message() + "\n")
            elif r.status.value not in ("passed", "not applicable"):
                typer.echo(f"{r.id} {r.status.value}: {r.reason}\n")
        if report.cut:
            told = ", ".join(f"{r.id} {r.effort}" for r in report.cut)
            typer.secho(f"cut down in examples, for time: {told}\n", fg=typer.colors.YELLOW)
        verdict = "conforms" if report.ok else "does not conform"
        if not report.complete:
            verdict = "passes what was chosen" if report.ok else "fails what was chosen"
        colour = typer.colors.GREEN if report.ok else typer.colors.RED
        typer.secho(
            f"{report.subject} {verdict}: {report.badge}, {report.seconds:.1f} s, seed {report.seed}",
            fg=colour,
            bold=True,
        )


def _write(report: Report, json: Path | None, html: Path | None, junit: Path | None, badge: Path | None) -> None:
    from lms_conformance import reports

    from lms_tiers.cli.output import open_output

    for path, render in (
        (json, lambda r: reports.to_json(r) + "\n"),
        (html, reports.to_html),
        (junit, reports.to_junit),
        (badge, reports.badge_json),
    ):
        if path is not None:
            with open_output(path) as file:
                file.write(render(report))
