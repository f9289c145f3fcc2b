"""The property × mutant matrix as a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lms_conformance.spec import FAMILIES, properties
from lms_conformance.zoo.hunt import Catch, matrix


def to_markdown(
    catches: Sequence[Catch],
    named: Mapping[int, Sequence[Catch]],
    profile: str,
    spec: str,
    asked: Sequence[str],
    code: str,
) -> str:
    """The whole page.

    Parameters
    ----------
    catches : sequence of Catch
        Every mutant against the properties it names and those that are `asked`.
    named : mapping of int to sequence of Catch
        By seed, every mutant against the properties it names, in `profile`.
    profile, spec : str
    asked : sequence of str
        The properties of which every mutant is asked.
    code : str
        Which kit hunted; see `notes.code`.
    """
    found = matrix(catches)
    seconds = {seed: sum(r.seconds for c in hunted for r in c.results.values()) for seed, hunted in named.items()}
    matrix_seconds = sum(r.seconds for c in catches for r in c.results.values())
    by_name = {catch.mutant.name: catch for catch in catches}
    out = [
        "# The zoo: proof that the kit catches",
        "",
        f"{len(catches)} broken backends against the {len(properties())} properties of spec {spec}. Each mutant is a",
        "correct backend with one promise broken; each must be caught, by the assertion of the property it names (a",
        "crash or a time-out of the suite does not count). Written by `make zoo`, which ran whole, with the kit whose",
        f"sources have the digest `{code}` (`python -m lms_conformance.zoo --code` tells that of the kit at hand).",
        "",
        f"Every mutant against the properties it names, with the effort of the profile `{profile}`. Seconds are those",
        "of all hunts one after the other; `make zoo` has one under way for each processor:",
        "",
        "| seed | caught by each property it names | seconds |",
        "|---|---|---|",
        *(
            f"| {seed} | {sum(not c.missed for c in hunted)} of {len(hunted)} | {seconds[seed]:.0f} |"
            for seed, hunted in named.items()
        ),
        "",
        f"The rest of this page is every mutant against the properties it names and the {len(asked)} that take no",
        "more than some hundredths of a second, with little effort (8 examples) and one seed; these hunts took",
        f"{matrix_seconds:.0f} seconds. In the first table, **bold** mutants are those that a property must catch, the",
        "others it caught as well (of a property marked *, only mutants that name it were asked); the last column has",
        "the bold mutant that is the property's own the most, and says who else catches it.",
        "",
        "## Properties, and who they catch",
        "",
    ]
    for family, what in FAMILIES.items():
        rows = [p for p in properties() if p.family == family]
        if not rows:
            continue
        out += [
            f"### {family}: {what}",
            "",
            "| property | promise | catches | its own mutant is caught besides by |",
            "|---|---|---|---|",
        ]
        for p in rows:
            bold = [f"**{name}**" for name in found[p.id]["named"]]
            also = sorted(found[p.id]["also"])
            shown = ", ".join([*bold, *also[:6]]) + (f" and {len(also) - 6} more" if len(also) > 6 else "")
            own = min((_besides(by_name[name], p.id) for name in found[p.id]["named"]), key=len, default=[])
            star = "" if p.id in asked else " *"
            out.append(f"| {p.id}{star} | {_cell(p.sentence)} | {shown} | {', '.join(own) or 'none'} |")
        out.append("")
    out += ["## Mutants", "", "| mutant | what is broken | of | caught by | and by |", "|---|---|---|---|---|"]
    for catch in catches:
        m = catch.mutant
        out.append(
            f"| {m.name} | {_cell(m.sentence)} | {m.base} | {', '.join(m.kills)} | {', '.join(catch.also) or 'none'} |"
        )
    return "\n".join([*out, ""])


def _besides(catch: Catch, k: str) -> list[str]:
    """The other properties that catch the mutant."""
    return [other for other in (*catch.mutant.kills, *catch.also) if other != k]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
