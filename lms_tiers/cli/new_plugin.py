"""`lms-tiers new-plugin`: a distribution that works at once: plugin, tests that run the kit, CI, README, licence."""

from __future__ import annotations

import datetime
import re
from enum import StrEnum
from pathlib import Path
from typing import Final

import typer

from lms_tiers.errors import ConfigError, StorageUnavailableError

_TEMPLATES: Final = Path(__file__).parent / "templates"
_SUMMARIES: Final = {
    "backend": "KV chunks, compressed in memory",
    "remote": "KV chunks in a server that speaks RESP",
    "policy": "An eviction policy",
    "codec": "A codec for KV chunks",
}
#: What a kind imports beside the package, for its distribution to say so.
_NEEDS: Final = {"remote": ("pydantic>=2.7", "xxhash>=3.5")}


class License(StrEnum):
    """Licences with a text to ship."""

    APACHE = "Apache-2.0"
    MIT = "MIT"
    BSD = "BSD-3-Clause"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("new-plugin")
    def new_plugin(
        name: str = typer.Argument(help="How device texts will call it, such as 'shelf'."),
        directory: Path | None = typer.Option(None, "--directory", "-C", help="Default: ./lms-tiers-NAME."),
        policy: bool = typer.Option(False, "--policy", help="An eviction policy instead of a backend."),
        codec: bool = typer.Option(False, "--codec", help="A codec instead of a backend."),
        remote: bool = typer.Option(
            False, "--remote", help="A backend over a server: client, time-outs, pool, secrets."
        ),
        licence: License = typer.Option(License.APACHE, "--license", help="The licence to ship."),
        author: str = typer.Option("the authors", "--author", help="For the licence text."),
    ) -> None:
        """Write a plugin of your own, ready to run.

        A distribution that passes the conformance kit as it is.
        """
        kinds = [kind for kind, on in (("policy", policy), ("codec", codec), ("remote", remote)) if on]
        if len(kinds) > 1:
            raise ConfigError(f"--{kinds[0]} and --{kinds[1]} exclude each other: make two plugins.")
        kind = kinds[0] if kinds else "backend"
        target = directory or Path(f"lms-tiers-{name}")
        written = write_plugin(name, kind, target, licence.value, author)
        for path in written:
            typer.echo(f"  {path}")
        typer.echo(f'\nNext:\n  cd {target}\n  pip install -e ".[conformance]"\n  bash ci.sh')


def write_plugin(name: str, kind: str, target: Path, licence: str, author: str) -> list[Path]:
    """Write the distribution into `target`, which must not exist or be empty; answers the files.

    Raises
    ------
    ConfigError
        The name is not usable or taken, or `target` holds something; nothing is written.
    StorageUnavailableError
        `target` cannot be written.
    """
    from lms_tiers import __version__
    from lms_tiers.registry import default_registry

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(f"{name!r} is not a plugin's name: use lower-case letters and digits, with single hyphens.")
    registry = default_registry()
    taken = {"backend": [*registry.backends], "policy": [*registry.policies], "codec": [*registry.codecs]}
    made = "backend" if kind == "remote" else kind
    if name in taken[made]:
        raise ConfigError(f"there is a {made} {name!r} already: choose another name.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not empty: choose another --directory.")
    words = {
        "NAME": name,
        "DISTRIBUTION": f"lms-tiers-{name}",
        "MODULE": f"lms_tiers_{name.replace('-', '_')}",
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "ENV": name.replace("-", "_").upper(),
        "SUMMARY": _SUMMARIES[kind],
        "DEPENDENCIES": "".join(f', "{package}"' for package in _NEEDS.get(kind, ())),
        "LICENSE": licence,
        "AUTHOR": author,
        "YEAR": str(datetime.datetime.now(tz=datetime.UTC).year),
        "VERSION": ".".join(__version__.split(".")[:2]),
    }
    sources = {Path("LICENSE"): _TEMPLATES / "licenses" / f"{licence}.txt"}
    for root in (_TEMPLATES / "common", _TEMPLATES / kind):  # a kind's own file stands for the common one
        sources |= {p.relative_to(root).with_suffix(""): p for p in sorted(root.rglob("*.tmpl"))}
    written = []
    try:
        for relative, template in sources.items():
            path = target / str(relative).replace("__module__", words["MODULE"])
            path.parent.mkdir(parents=True, exist_ok=True)
            text = re.sub(r"@@([A-Z]+)@@", lambda m: words[m[1]], template.read_text(encoding="utf-8"))
            path.write_text(text, encoding="utf-8")
            written.append(path)
        (target / "ci.sh").chmod(0o755)
    except OSError as error:
        raise StorageUnavailableError(str(target), f"cannot be written: {error.strerror or error}.") from error
    return written
