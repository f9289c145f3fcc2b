"""`lms-tiers check`: is a disk store whole, down to every checksum?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("check")
    def check(
        path: Path = typer.Argument(..., help="The directory of an lmdb store that nobody has open."),
        repair: bool = typer.Option(False, "--repair", help="Remove what is damaged and write the index anew."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
    ) -> None:
        """Verify a store's index and the checksum of every chunk. Exit 1 if something is wrong (and not mended)."""
        import json

        from rich.console import Console
        from rich.markup import escape

        from lms_tiers.cli.store_progress import counting
        from lms_tiers.plugins.lmdb.maintenance import check as run

        with counting("checking") as progress:
            report = run(path, repair, progress)
        if as_json:
            typer.echo(json.dumps({**asdict(report), "ok": report.ok}, indent=2))
        else:
            console = Console()
            reason = f" ({escape(report.reason)})" if report.reason else ""
            console.print(f"index: {report.verdict}{reason}")
            console.print(
                f"chunks: {report.chunks}, damaged: {report.damaged}, lost with the index: {report.lost}"
                + (" — mended" if report.repaired else "")
            )
            for key in report.damaged_keys:
                console.print(f"  damaged: {escape(key)}")
        if not report.ok:
            raise typer.Exit(1)
