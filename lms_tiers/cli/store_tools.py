"""`lms-tiers check`, `compact` and `inspect`: a disk store that nobody has open, looked at and mended."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lms_tiers.plugins.lmdb.maintenance import Contained, Report

_Store = Annotated[Path, typer.Argument(help="The directory of an lmdb store that nobody has open.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command("check")
    def check(
        path: _Store,
        repair: bool = typer.Option(False, "--repair", help="Remove what is damaged and write the index anew."),
        as_json: _Json = False,
    ) -> None:
        """Verify every chunk of an lmdb store.

        Its index and all checksums. Exit 1 if something is wrong (and not mended).
        """
        from lms_tiers.cli.progress import counting
        from lms_tiers.plugins.lmdb.maintenance import check as run

        with counting("checking") as progress:
            report = run(path, repair, progress)
        if as_json:
            _print_json({**asdict(report), "ok": report.ok})
        else:
            _print_report(report)
        if not report.ok:
            raise typer.Exit(1)

    @app.command("compact")
    def compact(
        path: _Store,
        capacity: str | None = typer.Option(
            None, "--capacity", help="Leave out the least recently used chunks that do not fit, as in 50GiB."
        ),
        as_json: _Json = False,
    ) -> None:
        """Give free pages of an lmdb store back.

        To the file system; every chunk is verified, and the index written anew.
        """
        from lms_tiers.cli.progress import counting
        from lms_tiers.plugins.lmdb.maintenance import compact as run
        from lms_tiers.sizes import format_size, parse_size

        limit = None if capacity is None else parse_size(capacity)
        with counting("compacting") as progress:
            result = run(path, limit, progress)
        if as_json:
            _print_json(asdict(result))
        else:
            typer.echo(
                f"{result.chunks} chunks kept, {result.dropped} left out, {result.damaged} damaged and dropped; "
                f"{format_size(result.before)} before, {format_size(result.after)} now"
            )

    @app.command("inspect")
    def inspect(path: _Store, as_json: _Json = False) -> None:
        """Show what an lmdb store holds.

        Entries, sizes, dtypes, compression and ages.
        """
        from lms_tiers.cli.progress import counting
        from lms_tiers.plugins.lmdb.maintenance import inspect as run

        with counting("reading") as progress:
            contents = run(path, progress)
        if as_json:
            _print_json(_document(contents))
        else:
            _print_contents(contents)


def _print_json(document: Any) -> None:
    import json

    typer.echo(json.dumps(document, indent=2))


def _print_report(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    reason = f" ({escape(report.reason)})" if report.reason else ""
    console.print(f"index: {report.verdict}{reason}")
    console.print(
        f"chunks: {report.chunks}, damaged: {report.damaged}, lost with the index: {report.lost}"
        + (" — mended" if report.repaired else "")
    )
    for key in report.damaged_keys:
        console.print(f"  damaged: {escape(key)}")


def _document(contents: Contained) -> dict[str, Any]:
    document = asdict(contents)
    document["groups"] = [
        {"dtype": dtype, "codec": codec, **asdict(group)} for (dtype, codec), group in sorted(contents.groups.items())
    ]
    return document


def _print_contents(contents: Contained) -> None:
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
