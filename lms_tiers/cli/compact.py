"""`lms-tiers compact`: give what a disk store does not need back to the file system."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("compact")
    def compact(
        path: Path = typer.Argument(..., help="The directory of an lmdb store that nobody has open."),
        capacity: str | None = typer.Option(
            None, "--capacity", help="Leave out the least recently used chunks that do not fit, as in 50GiB."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print JSON instead of text."),
    ) -> None:
        """Give free pages back to the file system, verify every chunk, and write the index anew."""
        import json

        from lms_tiers.cli.store_progress import counting
        from lms_tiers.plugins.lmdb.maintenance import compact as run
        from lms_tiers.sizes import format_size, parse_size

        limit = None if capacity is None else parse_size(capacity)
        with counting("compacting") as progress:
            result = run(path, limit, progress)
        if as_json:
            typer.echo(json.dumps(asdict(result), indent=2))
        else:
            typer.echo(
                f"{result.chunks} chunks kept, {result.dropped} left out, {result.damaged} damaged and dropped; "
                f"{format_size(result.before)} before, {format_size(result.after)} now"
            )
