"""Writes docs/devices.md from the plugins' own options models: ``python -m scripts.devices_page``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lms_tiers.hookspecs import BackendSpec
from lms_tiers.options import StoreOptions, secret_options
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
| `capacity` | none | the tier's physical bytes; needed by every tier with another below it |
| `policy` | `lru` | which chunks leave: {policies} |
| `write` | `back`, shared: `through` | `back`: chunks come as they are demoted; `through`: puts are queued at once |
| `promote` | `hits` | `hits`: chunks hit here are offered to the tiers above; `never`: they stay where they are |
| `deadline` | `1s` | of a shared tier: how long a call may take before its caller goes on without it |
| `revalidate` | none | of a shared tier: a private copy that is older is asked for again before it is a hit |

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
    codecs = "".join(f"| `{spec.name}` | {spec.summary} |\n" for spec in registry.codecs.specs())
    return "\n".join(
        [
            HEAD.replace("{policies}", policies).replace("{store}", _table(StoreOptions)),
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
    secrets = secret_options(model)
    for name, field in model.model_fields.items():
        lines.append(f"| `{name}` | {_type(field)} | {_default(field)} | {_cell(field.description or '')} |")
        if name in secrets:
            lines.append(f"| `{name}_env`, `{name}_file` | text | none | where `{name}` is kept: a variable, a file |")
    return "\n".join(lines)


def _type(field: FieldInfo) -> str:
    kind: Any = field.annotation
    inner = [m for argument in get_args(kind) for m in getattr(argument, "__metadata__", ())]
    reads = [m for m in (*field.metadata, *inner) if isinstance(m, BeforeValidator)]
    if reads:
        return "duration" if "duration" in reads[0].func.__name__ else "size"
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    text = text.replace("typing.", "").replace("pydantic.types.", "")
    if text.startswith("Literal["):
        return ", ".join(f"`{value}`" for value in kind.__args__)
    return _cell(text)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "needed"
    if field.default is None:
        return "none"
    if _type(field) == "duration":
        return f"`{field.default:g}s`"
    if _type(field) == "size":
        from lms_tiers.sizes import format_size

        return f"`{format_size(field.default).replace(' ', '')}`"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    text = page(Registry({}, []))
    if "--check" in sys.argv:
        same = PAGE.read_text(encoding="utf-8") == text
        sys.exit(0 if same else f"{PAGE.name} is not what the plugins say: run `make devices-page`")
    PAGE.write_text(text, encoding="utf-8")
