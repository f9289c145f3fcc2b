"""Walks an index that is not trusted, in a process of its own: it may be killed for it, and nothing else is.

    python -m lms_tiers.plugins.lmdb.salvage INDEX

Writes to standard output, for each record that LMDB finds: u16 bytes of its name, u32 bytes of its value, both. First
those of `meta`, then an empty name, then those of `chunks`; two empty names end it. The reader judges their worth.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Final

FRAME: Final = struct.Struct("<HI")
#: Exit status where LMDB itself finds the file damaged.
SICK: Final = 4


def main(path: str) -> None:
    """Walk the file at `path`."""
    import lmdb

    out = sys.stdout.buffer
    try:
        with (
            lmdb.open(os.fsencode(path), subdir=False, readonly=True, lock=False, create=False, max_dbs=2) as env,
            env.begin() as txn,
        ):
            for table in (b"meta", b"chunks"):
                for name, value in txn.cursor(env.open_db(table, txn=txn, create=False)):
                    if name:
                        out.write(FRAME.pack(len(name), len(value)) + name + value)
                out.write(FRAME.pack(0, 0))
    except lmdb.Error as error:
        print(f"{path}: {error}", file=sys.stderr)
        raise SystemExit(SICK) from None
    out.write(FRAME.pack(0, 0))
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
