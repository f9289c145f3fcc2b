"""The property × mutant matrix as a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from lms_conformance.spec import FAMILIES, properties
from lms_conformance.zoo.hunt import Catch, matrix


def to_markdown(catches: Sequence[Catch], spec: str) -> str:
    """The whole page."""
    found = matrix(catches)
    out = [
        "# The zoo: proof that the kit catches",
        "",
        f"{len(catches)} broken backends against the {len(properties())} properties of spec {spec}. Each mutant is a",
        "correct backend with one promise broken; each must be caught, by the assertion of the property it names (a",
        "crash or a time-out of the suite does not count). Written by `make zoo`.",
        "",
        "In the first table, **bold** mutants are the ones a property must catch; the others it caught as well.",
        "",
        "## Properties, and who they catch",
        "",
    ]
    for family, what in FAMILIES.items():
        rows = [p for p in properties() if p.family == family]
        if not rows:
            continue
        out += [f"### {family}: {what}", "", "| property | promise | catches |", "|---|---|---|"]
        for p in rows:
            named = [f"**{name}**" for name in found[p.id]["named"]]
            also = sorted(found[p.id]["also"])
            shown = ", ".join([*named, *also[:6]]) + (f" and {len(also) - 6} more" if len(also) > 6 else "")
            out.append(f"| {p.id} | {_cell(p.sentence)} | {shown} |")
        out.append("")
    out += ["## Mutants", "", "| mutant | what is broken | of | caught by | and by |", "|---|---|---|---|---|"]
    for catch in catches:
        m = catch.mutant
        also = catch.also
        shown = ", ".join(also[:8]) + (f" and {len(also) - 8} more" if len(also) > 8 else "")
        out.append(f"| {m.name} | {_cell(m.sentence)} | {m.base} | {', '.join(m.kills)} | {shown} |")
    return "\n".join([*out, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
