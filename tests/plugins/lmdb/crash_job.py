"""Puts, overwrites, removes and flushes without end, telling a pipe what it did; its parent kills it.

Each line on standard output: ``put NAME SEED LENGTH``, ``gone NAME`` or ``flushed``, written before (``?``) and after
(``!``) the call, so that the parent knows what may and what must be there.
"""

from __future__ import annotations

import random
import sys

from lms_tiers.errors import CapacityError
from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions


def data_of(seed: int, length: int) -> bytearray:
    """The bytes of a put, from what its line says."""
    return bytearray(random.Random(seed).randbytes(length))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(directory: str, seed: int, sync: str) -> None:
    draw = random.Random(seed)
    options = LmdbOptions.model_validate({"sync": sync, "codec": "auto"})
    backend = open_backend(directory, 12 << 20, options)
    say("open")
    number = 0
    room = bytearray(300_000)
    while True:
        number += 1
        name, kind = f"key{draw.randrange(40)}", draw.random()
        key = OpaqueKey(name)
        if kind < 0.12:
            say(f"? gone {name}")
            backend.remove(key)
            say(f"! gone {name}")
        elif kind < 0.2:
            backend.flush()
            say("! flushed")
        else:
            value, length = seed * 1_000_000 + number, draw.choice([0, 100, 3000, 70_000, 300_000])
            say(f"? put {name} {value} {length}")
            message = ClientMetaMessage(ClientCommand.PUT, key, length, MemoryFormat.BINARY, None, (length,))  # type: ignore[arg-type]
            try:
                backend.put(message, data_of(value, length))
            except CapacityError:
                say(f"! full {name}")
                continue
            say(f"! put {name} {value} {length}")
            backend.touch([key])
            assert backend.get_into(key, room) is not None  # get would import torch: a second for each job


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
