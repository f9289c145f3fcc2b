"""Every benchmark of the lmdb backend, one after another: `make bench-lmdb`.

    python -m benchmarks.lmdb_all [--gib 6] [--json FOLDER]

Each runs in a process of its own and prints its table; with ``--json`` each leaves a document in the folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", default="6", help="size of the churned store")
    parser.add_argument("--json", type=Path, help="folder for the documents")
    given = parser.parse_args()
    if given.json:
        given.json.mkdir(parents=True, exist_ok=True)
    for name, extra in (("lmdb_read", []), ("lmdb_churn", ["--gib", given.gib])):
        print(f"\n== {name}", flush=True)
        told = ["--json", str(given.json / f"{name}.json")] if given.json else []
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *extra, *told], check=True)


if __name__ == "__main__":
    main()
