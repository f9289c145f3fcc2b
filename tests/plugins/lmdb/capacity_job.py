"""Puts, overwrites and evicts without end, as a tier does; its parent stops it to look at the disk, and kills it.

Chunks come in spells of one size, so that `data` and the index take room from each other.
"""

from __future__ import annotations

import random
import sys

from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb import checkpoint
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from tests.plugins.lmdb.tier import Tier

#: Shortest and longest of a spell, and how many chunks it has.
SPELLS = [(0, 200, 2500), (300_000, 900_000, 60), (3000, 9000, 600), (100, 60_000, 300)]


def main(directory: str, capacity: int, seed: str, sync: str, codec: str) -> None:
    draw = random.Random(seed)
    noise = draw.randbytes(1 << 20)
    checkpoint.SECONDS = 0.05
    with open_backend(directory, capacity, LmdbOptions.model_validate({"sync": sync, "codec": codec})) as backend:
        tier = Tier(backend, seed)
        print("open", flush=True)
        while True:
            least, most, count = draw.choice(SPELLS)
            for number in range(count):
                name = str(draw.randrange(40) if draw.random() < 0.2 else draw.randrange(10**9))
                length = draw.randrange(least, most)
                begin = draw.randrange(len(noise) - length)
                message = ClientMetaMessage(
                    ClientCommand.PUT, OpaqueKey(name), length, MemoryFormat.BINARY, None, (length,)  # type: ignore[arg-type]
                )  # fmt: skip
                tier.put(message, bytearray(noise[begin : begin + length]))
                if number % 97 == 0:
                    backend.save_state(noise[: draw.randrange(backend._budget.state_limit)])
                    backend.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:6])
