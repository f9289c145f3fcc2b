"""What has to work without any extra, and what has to say which one is missing: ``python -m scripts.plain``.

In an environment that has extras, ``--pretend`` hides what they bring.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

#: What the extras bring.
EXTRAS: Final = (
    "pytest",
    "hypothesis",
    "matplotlib",
    "prometheus_client",
    "obstore",
    "mooncake",
    "mkdocs",
    "mypy",
    "moto",
    "boto3",
)


def check() -> None:
    """Raise where something does not work, or does not say what is missing."""
    for name in EXTRAS:
        with refused(ImportError, name):
            importlib.import_module(name)
    from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
    from lms_tiers.client import Client
    from lms_tiers.errors import LmsTiersError
    from lms_tiers.server.server import Server
    from lms_tiers.server.settings import make_settings

    chunk = ChunkMeta(4, MemoryFormat.KV_2LTD, "bfloat16", (2,)).message(OpaqueKey("k"))
    with TemporaryDirectory() as folder:
        device = f"cpu?capacity=1MiB > lmdb:{folder}/kv?capacity=8MiB"
        with CreateStorageBackend(device) as store:
            store.put(chunk, bytearray(b"kept"))
        with CreateStorageBackend(device) as store:
            with Server(store, make_settings(None, {"port": 0})) as server, Client(server.address) as client:
                found = client.get(OpaqueKey("k"))
                assert found is not None, "what was put is gone after a restart"
                assert bytes(found.data) == b"kept"
            with refused(LmsTiersError, "lms-tiers[metrics]"):
                from lms_tiers.metrics.collector import StoreCollector

                StoreCollector(store)
        trace, plot = Path(folder, "trace.jsonl"), Path(folder, "plot.png")
        assert command("plugins") == command("doctor", "--json") == command("explain", "codec") == 0
        assert command("make-trace", str(trace), "--requests", "20") == 0
        assert command("replay", str(trace), "--device", "cpu?capacity=1MiB", "--block-bytes", "4KiB") == 0
        assert command("simulate", str(trace), "--policies", "lru", "--capacity", "10%") == 0
        for given, extra in (
            (
                ("simulate", str(trace), "--policies", "lru", "--capacity", "10%", "--plot", str(plot)),
                "lms-tiers[plot]",
            ),
            (("conform", "cpu"), "lms-tiers[conformance]"),
        ):
            with refused(LmsTiersError, extra):
                command(*given)
        with refused(LmsTiersError, "lms-tiers[s3]"):
            CreateStorageBackend("s3:bucket")
        with refused(LmsTiersError, "lms-tiers[mooncake]"):
            CreateStorageBackend("mooncake:127.0.0.1:50051")


def command(*arguments: str) -> int:
    """The exit status of a command; errors of ours are raised."""
    import click
    from typer.main import get_command

    from lms_tiers.cli import app

    try:
        return int(get_command(app).main([*arguments], standalone_mode=False) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code


@contextmanager
def refused(kind: type[BaseException], words: str) -> Iterator[None]:
    """A block that has to raise `kind`, with these words."""
    said = ""
    try:
        yield
    except kind as error:
        said = str(error)
    assert words in said, f"it says {said!r}, and not {words!r}"


if __name__ == "__main__":
    if "--pretend" in sys.argv:
        sys.modules.update(dict.fromkeys(EXTRAS))  # type: ignore[arg-type]  # None: there is none
    check()
    print("without any extra: all that needs none works, and the rest says what to install")
