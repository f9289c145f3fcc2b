"""`lms-tiers simulate`: what eviction policies would do for a trace, sizes only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Optional

import typer

from lms_tiers.cli.trace_options import AnyOrderOption, BlockTokensOption, FormatOption, TimeUnitOption, TraceArgument

if TYPE_CHECKING:
    from rich.console import Console

    from lms_tiers.replay.simulate import Result, Stream

#: Options of a fleet.
_FLEET: Final = ("route", "private", "shared", "shards")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("simulate")
    def simulate(
        ctx: typer.Context,
        trace: TraceArgument,
        policies: Annotated[str, typer.Option(help="Names, separated by commas; opt knows the future.")] = (
            "lru,hazard,opt"
        ),
        capacity: Annotated[str, typer.Option(help="Percent of unique blocks, or sizes with --block-bytes.")] = (
            "1%,2%,5%,10%,20%,50%"
        ),
        block_bytes: Annotated[Optional[str], typer.Option(help="Bytes of one block, with a unit.")] = None,
        tiers: Annotated[
            Optional[str], typer.Option(help="Capacities of several tiers, fastest first, such as 2%,20%.")
        ] = None,
        composition: Annotated[
            str, typer.Option(help="With --tiers: clean-copy, exclusive or write-through.")
        ] = "clean-copy",
        instances: Annotated[
            Optional[str],
            typer.Option(help="A fleet of so many instances, such as 1,4,16, with --private and --shared."),
        ] = None,
        route: Annotated[
            str, typer.Option(help="With --instances: round-robin, session, prefix, or several of them.")
        ] = "session",
        private: Annotated[str, typer.Option(help="With --instances: tiers of each instance, as --tiers.")] = "1%",
        shared: Annotated[str, typer.Option(help="With --instances: the tier all share; several by commas.")] = "50%",
        shards: Annotated[int, typer.Option(min=1, help="With --instances: nodes of the shared tier.")] = 3,
        warm: Annotated[int, typer.Option(min=0, help="Do not count the hits of so many first requests.")] = 0,
        flat: Annotated[bool, typer.Option("--flat", help="Hide prefix chains from the policies.")] = False,
        format: FormatOption = None,
        block_tokens: BlockTokensOption = None,
        time_unit: TimeUnitOption = None,
        any_order: AnyOrderOption = False,
        json_file: Annotated[
            Optional[Path], typer.Option("--json", help="Write the figures as JSON; - is standard output.")
        ] = None,
        plot: Annotated[Optional[Path], typer.Option(help="Write a PNG of hit ratio over capacity.")] = None,
    ) -> None:
        """Simulate eviction policies over a trace.

        Prefix hits by policy and capacity.
        """
        from rich.console import Console

        from lms_tiers.cli.output import check_output, write_json
        from lms_tiers.cli.trace_options import document as trace_document
        from lms_tiers.cli.trace_options import load
        from lms_tiers.replay.plot import require_matplotlib
        from lms_tiers.replay.simulate import policy_names, prepare
        from lms_tiers.sizes import parse_size

        _refuse_ignored(ctx, tiers is not None, instances is not None)
        check_output(json_file)
        check_output(plot)
        if plot is not None:
            require_matplotlib()
        size = None if block_bytes is None else parse_size(block_bytes)
        read, doubts = load(trace, format, block_tokens, time_unit, any_order=any_order)
        stream = prepare(read.requests, flat=flat)
        console = Console(stderr=True)
        names = policy_names(policies)
        document: dict[str, Any] = {
            **trace_document(trace, read, doubts), "requests": len(stream.keys), "references": stream.references,
            "unique_blocks": stream.unique,
        }  # fmt: skip
        output = Console(stderr=str(json_file) == "-")
        if instances is not None:
            from lms_tiers.cli.simulate_fleet import run_fleets

            document["results"] = run_fleets(
                console, output, stream, names, instances, route, private, shared, shards, size
            )
        elif tiers is None:
            results = _single(console, stream, names, capacity.split(","), size, warm)
            document["results"] = [result.document() for result in results]
            output.print(_table(results))
            if plot is not None:
                from lms_tiers.replay.simulate_plot import plot_simulation

                plot_simulation(results, stream.unique, plot)
        else:
            document["results"] = _tiered(console, output, stream, names, tiers.split(","), composition, size)
        if json_file is not None:
            write_json(json_file, document)


def _refuse_ignored(ctx: typer.Context, tiered: bool, fleet: bool) -> None:
    """An option that would change nothing is a mistake of its user, or of ours."""
    from lms_tiers.errors import ConfigError

    single, several, many = ("capacity", "warm", "plot"), ("tiers", "composition"), _FLEET
    ignored = (*single, *several) if fleet else (*single, *many) if tiered else (several[1], *many)
    for name in ignored:
        source = ctx.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        if name in single:
            raise ConfigError(f"--{name} is for a single tier: leave it out, or --{'instances' if fleet else 'tiers'}.")
        needs = "several tiers: give --tiers" if name in several else "a fleet: give --instances"
        raise ConfigError(f"--{name} is for {needs}." if not fleet else f"--{name} is not for a fleet: leave it out.")


def _single(
    console: Console, stream: Stream, names: list[str], capacities: list[str], size: int | None, warm: int
) -> list[Result]:
    from lms_tiers.cli.progress import progress_bar
    from lms_tiers.replay.simulate import capacity_blocks, policy_spec, simulate

    specs = [policy_spec(name) for name in names]
    blocks = [(text.strip(), capacity_blocks(text, stream.unique, size)) for text in capacities]
    results: list[Result] = []
    total = len(stream.keys)
    with progress_bar(console, "simulating", total * len(specs) * len(blocks)) as done:
        for spec in specs:
            for text, count in blocks:
                base = total * len(results)
                results.append(
                    simulate(
                        spec,
                        stream,
                        count,
                        capacity=text,
                        block_bytes=size or 1,
                        warm=warm,
                        progress=lambda n, base=base: done(base + n),  # type: ignore[misc]  # bound per cell
                    )
                )
    return results


def _table(results: list[Result]) -> Any:
    from rich.table import Table

    capacities = list(dict.fromkeys(result.capacity for result in results))
    table = Table(title="Prefix hits, % of references")
    table.add_column("policy")
    for capacity in capacities:
        table.add_column(capacity, justify="right")
    table.add_column("µs a reference", justify="right")
    for policy in dict.fromkeys(result.policy for result in results):
        row = [result for result in results if result.policy == policy]
        cost = sum(r.seconds for r in row) / max(sum(r.references for r in row), 1) * 1e6
        table.add_row(policy, *(f"{100 * r.prefix_hit_ratio:.2f}" for r in row), f"{cost:.1f}")
    return table


def _tiered(
    console: Console, output: Console, stream: Stream, names: list[str], capacities: list[str], composition: str,
    size: int | None,
) -> list[dict[str, Any]]:  # fmt: skip
    from rich.table import Table

    from lms_tiers.cli.progress import progress_bar
    from lms_tiers.errors import ConfigError
    from lms_tiers.replay.simulate import capacity_blocks, policy_spec
    from lms_tiers.replay.simulate_tiers import Composition, simulate_tiers

    try:
        kind = Composition(composition)
    except ValueError:
        raise ConfigError(
            f"there is no composition {composition!r}.", unknown=composition, known=[c.value for c in Composition]
        ) from None
    blocks = [capacity_blocks(text, stream.unique, size) for text in capacities]
    specs = [policy_spec(name) for name in names]
    for spec in specs:
        if spec.simulation_only:
            raise ConfigError(f"policy {spec.name!r} is for a single tier: leave it out with --tiers.")
    table = Table(title=f"{kind.value}: hits in % of references, blocks per request")
    for column in ("policy", "total", *(f"{text} {what}" for text in capacities for what in ("hit", "write", "read"))):
        table.add_column(column, justify="left" if column == "policy" else "right")
    documents = []
    with progress_bar(console, "simulating", len(stream.keys) * len(specs)) as done:
        for i, spec in enumerate(specs):
            result = simulate_tiers(
                [(spec, count) for count in blocks], stream, kind,
                lambda n, i=i: done(i * len(stream.keys) + n),  # type: ignore[misc]  # bound per policy
            )  # fmt: skip
            document = result.document()
            documents.append(document)
            cells = [
                f"{tier[key] * factor:.{digits}f}"
                for tier in document["tiers"]
                for key, factor, digits in (
                    ("hit_ratio", 100, 2), ("writes_per_request", 1, 1), ("reads_per_request", 1, 1)
                )
            ]  # fmt: skip
            table.add_row(spec.name, f"{100 * document['prefix_hit_ratio']:.2f}", *cells)
    output.print(table)
    return documents
