"""`lms-tiers explain`: what is said of a property, a metric, an error or an option, each from its one source."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator

import typer

from lms_tiers.errors import ConfigError

#: A name as it may be asked for, what kind of thing it is, and the text.
Told = tuple[str, str, str]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("explain")
    def explain(
        name: str = typer.Argument(metavar="PROPERTY|METRIC|ERROR|OPTION", help="CRA-05, tier_drops, CapacityError …"),
    ) -> None:
        """Say what a property, metric, error or option means.

        A property of the kit (CRA-05) or a family of them (CRA); a metric, whole or in short (tier_drops, drops); an
        error's class; an option as it stands in a device text (codec), or of one backend only (lmdb.codec).
        """
        everything = [*_errors(), *_metrics(), *_options(), *_properties()]
        found = [told for told in everything if name.lower() in _spellings(told[0])]
        if not found:
            known = {spelling for told in everything for spelling in _spellings(told[0])}
            near = difflib.get_close_matches(name.lower(), sorted(known), 5)
            raise ConfigError(
                f"nothing is called {name!r}: name a property (CRA-05), a metric (tier_drops), an error or an option."
                f"{' Near it: ' + ', '.join(near) + '.' if near else ''}"
            )
        typer.echo("\n\n".join(f"{title} ({kind})\n{_indented(text)}" for title, kind, text in found))


def _spellings(title: str) -> set[str]:
    """How a title may be asked for: a property by family, a metric without its place, an option without its backend."""
    whole = title.lower()
    plain = whole.removeprefix("lms_tiers_")
    if plain != whole:
        short = plain.removesuffix("_total")
        return {whole, whole.removesuffix("_total"), plain, short, short.partition("_")[2]}
    family = whole.partition("-")[0] if whole[-2:].isdigit() else whole
    return {whole, family, whole.partition(".")[2] or whole}


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _errors() -> Iterator[Told]:
    from lms_tiers import errors

    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.LmsTiersError):
            bases = ", ".join(base.__name__ for base in kind.__bases__)
            yield name, f"error, a kind of {bases}", inspect.getdoc(kind) or ""


def _metrics() -> Iterator[Told]:
    from lms_tiers.metrics import names
    from lms_tiers.server import collector

    for name, kind, text in (*names.described(), *collector.described()):
        plain = name.removeprefix("lms_tiers_").removesuffix("_total")
        always = [identity for identity in names.IDENTITIES if plain in identity.split()]
        yield name, kind, "\n".join([text, *(["", "Always:", *always] if always else [])])


def _options() -> Iterator[Told]:
    from lms_tiers.options import TIER_MEANINGS, StoreOptions, described
    from lms_tiers.registry import default_registry, load_attribute

    registry = default_registry()
    policies = ", ".join(spec.name for spec in registry.policies.specs() if not spec.simulation_only)
    for name, (default, meaning) in TIER_MEANINGS.items():
        text = f"{meaning.replace('{policies}', policies)}\ndefault: {default}"
        yield f"tier.{name}", "option of every tier", text.replace("`", "")
    models = [("store", StoreOptions)]
    models += [(spec.name, load_attribute(spec.options)) for spec in registry.backends.specs() if spec.options]
    for owner, model in models:
        for option in described(model):
            text = f"{option.meaning}\ntype: {option.kind}\ndefault: {option.default}".replace("`", "")
            if option.secret:
                text += f"\nBetter kept elsewhere: {option.name}_env=VARIABLE or {option.name}_file=PATH."
            what = "option of the store" if owner == "store" else f"option of the backend {owner}"
            yield f"{owner}.{option.name}", what, text


def _properties() -> Iterator[Told]:
    try:
        from lms_conformance.spec import FAMILIES, NEEDS, properties

        for prop in properties():
            lacking = [f"does not apply where {NEEDS[need]}" for need in prop.needs]
            text = "\n".join([prop.sentence, *lacking, f"since spec {prop.since}"])
            yield prop.id, f"property of the kit, {FAMILIES[prop.family]}", text
    except ImportError:
        return  # without the extra `conformance` there is no kit to speak of
