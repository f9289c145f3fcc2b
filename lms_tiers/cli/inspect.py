"""`lms-tiers inspect`: what a disk store holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lms_tiers.plugins.lmdb.maintenance import Contained


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("inspect")
    def inspect(
        path: Path = typer.Argument(..., help="The directory of an lmdb store that nobody has open."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
    ) -> None:
        """Show entries, sizes, dtypes, compression and ages."""
        import json

        from lms_tiers.cli.store_progress import counting
        from lms_tiers.plugins.lmdb.maintenance import inspect as run

        with counting("reading") as progress:
            contents = run(path, progress)
        if as_json:
            typer.echo(json.dumps(_document(contents), indent=2))
        else:
            _print(contents)


def _document(contents: Contained) -> dict[str, Any]:
    document = asdict(contents)
    document["groups"] = [
        {"dtype": dtype, "codec": codec, **asdict(group)} for (dtype, codec), group in sorted(contents.groups.items())
    ]
    return document


def _print(contents: Contained) -> None:
    from rich.console import Console
    from rich.table import Table

    from lms_tiers.sizes import format_size

    console = Console()
    console.print(
        f"{contents.chunks} chunks, {format_size(contents.length)} of data, charged {format_size(contents.stored)}; "
        f"files {format_size(contents.file_bytes)}, of it free {format_size(contents.free_bytes)}"
    )
    console.print(
        f"age: youngest {contents.youngest:.0f} s, median {contents.median_age:.0f} s, oldest {contents.oldest:.0f} s"
    )
    table = Table("dtype", "codec", "chunks", "data", "encoded", "ratio", "charged")
    for (dtype, codec), group in sorted(contents.groups.items()):
        ratio = group.length / group.encoded if group.encoded else 1.0
        table.add_row(
            dtype, codec, str(group.chunks), format_size(group.length), format_size(group.encoded), f"{ratio:.3f}",
            format_size(group.stored),
        )  # fmt: skip
    console.print(table)
