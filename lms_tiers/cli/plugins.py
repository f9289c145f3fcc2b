"""`lms-tiers plugins`: what is installed, what it registers, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lms_tiers.registry import Registry


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("plugins")
    def plugins(
        as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
        traceback: bool = typer.Option(False, "--traceback", help="Show the traceback of broken plugins."),
    ) -> None:
        """List plugins and what they register.

        Distribution, state, backends, policies, codecs, and errors. Exit 1 if one is broken.
        """
        from lms_tiers.registry import default_registry

        registry = default_registry()
        if as_json:
            typer.echo(json.dumps(_document(registry), indent=2))
        else:
            _print(registry, traceback)
        if any(status.state in ("broken", "conflict") for status in registry.plugins):
            raise typer.Exit(1)


def _document(registry: Registry) -> dict[str, object]:
    from lms_tiers.registry import to_install

    return {
        "plugins": [dataclasses.asdict(status) for status in registry.plugins],
        "backends": {
            s.name: {"summary": s.summary, "example": s.example, "install": to_install(s)}
            for s in registry.backends.specs()
        },
        "policies": {s.name: {"summary": s.summary} for s in registry.policies.specs()},
        "codecs": {s.name: {"summary": s.summary} for s in registry.codecs.specs()},
    }


def _print(registry: Registry, traceback: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lms_tiers.registry import to_install

    console = Console()
    table = Table("plugin", "distribution", "version", "state", "registers", title="Plugins")
    colour = {"ok": "green", "broken": "red", "conflict": "red", "disabled": "dim"}
    for status in registry.plugins:
        names = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in status.registers.items())
        state = f"[{colour[status.state]}]{status.state}[/]"
        table.add_row(status.name, status.distribution, status.version, state, names)
    console.print(table)
    specs = Table("backend", "summary", "example", title="Backends")
    for spec in registry.backends.specs():
        specs.add_row(", ".join((spec.name, *spec.aliases)), escape(spec.summary), escape(spec.example))
    console.print(specs)
    for spec in registry.backends.specs():
        if command := to_install(spec):
            console.print(f"[yellow]{spec.name}[/] needs more: {escape(command)}")
    for status in registry.plugins:
        if status.error:
            console.print(f"[red]{status.name}[/] ({status.distribution}): {escape(status.error)}")
            if traceback and status.trace:
                console.print(escape(status.trace))
