"""The command line: one file per command, thin. Importing this imports no torch and no backend."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import Final

import typer

from lms_tiers.errors import LmsTiersError

#: Modules of this package, in the order of `--help`; each has ``register(app)`` and only light imports at its top.
COMMANDS: Final = (
    "plugins", "replay", "make_trace", "simulate", "advise", "serve", "stats", "conform", "conform_policy",
    "store_tools", "new_plugin", "explain", "doctor",
)  # fmt: skip

app = typer.Typer(
    name="lms-tiers",
    help="Tiered, evicting storage for LLM KV-cache chunks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        from lms_tiers import __version__

        typer.echo(f"lms-tiers {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log more, with tracebacks."),
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


for _name in COMMANDS:
    if importlib.util.find_spec(f"{__name__}.{_name}"):
        importlib.import_module(f"{__name__}.{_name}").register(app)


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit status 2."""
    from lms_tiers.cli.terminal import any_terminal

    with any_terminal():
        try:
            try:
                app()
            finally:
                sys.stdout.flush()
        except LmsTiersError as error:
            if "--verbose" in sys.argv or "-v" in sys.argv:
                raise
            typer.echo(f"error: {error}", err=True)
            sys.exit(2)
