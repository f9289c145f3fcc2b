"""`lms-tiers conform-policy`: whether an eviction policy keeps its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("conform-policy")
    def conform_policy(
        name: Annotated[str, typer.Argument(help="A registered policy.", show_default=False)],
        json_file: Annotated[
            Optional[Path], typer.Option("--json", help="Write the outcomes as JSON; - is standard output.")
        ] = None,
    ) -> None:
        """Check a policy against the kit's rules.

        Exit 1 if one is broken.
        """
        from dataclasses import asdict

        from lms_conformance.policies import check_policy
        from rich.console import Console
        from rich.table import Table

        from lms_tiers.cli.output import check_output, write_json
        from lms_tiers.errors import ConfigError
        from lms_tiers.registry import default_registry, load_attribute

        check_output(json_file)
        spec = default_registry().policies[name]
        if spec.simulation_only:
            raise ConfigError(
                f"policy {name!r} needs to know the future: no tier can use it, nothing is to be checked."
            )
        outcomes = list(check_policy(load_attribute(spec.factory), name))
        table = Table(title=f"policy {name}")
        table.add_column("rule")
        table.add_column("outcome")
        table.add_column("s", justify="right")
        for outcome in outcomes:
            table.add_row(outcome.rule.replace("_", " "), outcome.error or "kept", f"{outcome.seconds:.2f}")
        Console(stderr=str(json_file) == "-").print(table)
        passed = all(outcome.error is None for outcome in outcomes)
        if json_file is not None:
            write_json(json_file, {"policy": name, "passed": passed, "rules": [asdict(o) for o in outcomes]})
        if not passed:
            raise typer.Exit(1)
