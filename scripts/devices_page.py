"""Writes docs/devices.md from the plugins' own options models: ``python -m scripts.devices_page``."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import BaseModel

from lms_tiers.hookspecs import BackendSpec
from lms_tiers.options import TIER_MEANINGS, StoreOptions, described
from lms_tiers.registry import Registry, load_attribute

PAGE = Path(__file__).resolve().parents[1] / "docs" / "devices.md"

HEAD = """# Devices

<!-- Written by `make devices-page` from the plugins' options models; a test compares. -->

```text
device := [store ">"] tier (">" tier)*           fastest tier first
store  := "store" ["?" option ("&" option)*]
tier   := name [":" location] ["?" option ("&" option)*]
```

For example `store?read_deadline=500ms > cpu?capacity=4GiB > lmdb:./lms-data?capacity=50GiB`.

Or the path of a file that ends in `.toml`, with the same fields:

```toml title="device.toml"
[store]
read_deadline = "500ms"

[[tier]]
name = "cpu"
capacity = "4GiB"
policy = "hazard"

[[tier]]
name = "lmdb"
location = "./lms-data"
capacity = "50GiB"

[tier.options]
codec = "auto"
```

Sizes carry units: `B`, `KiB`, `MiB`, `GiB`, `TiB` (or decimal `KB`, `MB`, `GB`, `TB`), durations too: `ms`, `s`, `min`,
`h`. In a location or a value, `%3E`, `%3F`, `%26` and `%25` stand for `>`, `?`, `&` and `%`. An unknown name or option
is an error that lists what is known and suggests the nearest.

## Options of every tier

| option | default | meaning |
|---|---|---|
{tier}

One tier with none of these, and no `store` before it, is the bare backend.

## Options of the store

They stand before the first tier, behind the name `store`, or in the table `[store]` of a file. No backend has that
name. [The tiered store](tiering.md) says more.

{store}

## Secrets

Where a backend's option `x` is a secret (type `SecretStr` below), `x_env=NAME` takes it from a variable of the
environment and `x_file=PATH` from a file, without the line break at its end. Prefer both to the value itself: a device
text stands in the list of processes and in shell histories. No log, error or report prints a secret: where a device
text is printed, `***` stands for it, as for a password in a location (`user:password@host`).
"""

CODECS = """## Codecs

For backends with an option `codec` ([codecs](codecs.md)).

| codec | |
|---|---|
"""


def page(registry: Registry) -> str:
    """The whole page."""
    policies = ", ".join(f"`{s.name}`" for s in registry.policies.specs() if not s.simulation_only)
    tier = "\n".join(f"| `{name}` | {default} | {meaning} |" for name, (default, meaning) in TIER_MEANINGS.items())
    codecs = "".join(f"| `{spec.name}` | {spec.summary} |\n" for spec in registry.codecs.specs())
    return "\n".join(
        [
            HEAD.replace("{tier}", tier).replace("{policies}", policies).replace("{store}", _table(StoreOptions)),
            *(_backend(spec) for spec in registry.backends.specs()),
            "## Codecs\n\nFor backends with an option `codec` ([codecs](codecs.md)).\n\n| codec | |\n|---|---|\n"
            + codecs,
        ]
    )


def _backend(spec: BackendSpec) -> str:
    names = ", ".join(f"`{name}`" for name in (spec.name, *spec.aliases))
    example = f" Example: `{spec.example}`" if spec.example else ""
    lines = [f"## {names}", "", f"{spec.summary[:1].upper()}{spec.summary[1:]}.{example}", ""]
    model = load_attribute(spec.options)
    if model is None or not model.model_fields:
        return "\n".join([*lines, "No options of its own.", ""])
    return "\n".join([*lines, _table(model), ""])


def _table(model: type[BaseModel]) -> str:
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for option in described(model):
        lines.append(f"| `{option.name}` | {_cell(option.kind)} | {option.default} | {_cell(option.meaning)} |")
        if option.secret:
            name = option.name
            lines.append(f"| `{name}_env`, `{name}_file` | text | none | where `{name}` is kept: a variable, a file |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    text = page(Registry({}, []))
    if "--check" in sys.argv:
        same = PAGE.read_text(encoding="utf-8") == text
        sys.exit(0 if same else f"{PAGE.name} is not what the plugins say: run `make devices-page`")
    PAGE.write_text(text, encoding="utf-8")
