"""The tier that a simulated fleet shares: shards by hash slots, evicting exactly by LRU or as Redis does."""

from __future__ import annotations

import random
from binascii import crc_hqx
from typing import Any, Final

#: Hash slots of a Cluster, as of Redis.
_SLOTS: Final = 16384
#: Candidates that Redis keeps between two evictions.
_POOL: Final = 16


class Engine:
    """Blocks of all instances.

    Parameters
    ----------
    blocks : int
        All shards together hold so many at most; 0 for none.
    shards : int
        They have the hash slots in equal parts, and the blocks.
    samples : int
        0 evicts the block used longest ago. Else the shard looks at so many of its blocks at random, and evicts the one
        used longest ago of these and of 16 that it remembers: the approximation of Redis's ``allkeys-lru``
        (``maxmemory-samples``, 5 by default). It leaves holes in chains, and a chain ends at its first hole.
    """

    def __init__(self, blocks: int, shards: int, samples: int) -> None:
        self._samples: Final = samples
        self._blocks: Final = blocks
        self._room: Final = max(1, blocks // shards)
        self._used: Final[dict[Any, int]] = {}  # when a block was used last, in order of use
        self._time = 0
        self._draw: Final = random.Random(0)
        self._keys: Final[list[list[Any]]] = [[] for _ in range(shards)]
        self._places: Final[list[dict[Any, int]]] = [{} for _ in range(shards)]
        self._pools: Final[list[list[tuple[int, Any]]]] = [[] for _ in range(shards)]
        self.load: Final = [0] * shards
        self.hits = self.writes = 0

    def read(self, key: Any) -> bool:
        """Use a block; whether it is there."""
        if key not in self._used:
            return False
        self._use(key)
        self.hits += 1
        return True

    def write(self, key: Any) -> None:
        """Put a block, there or not."""
        if not self._blocks:
            return
        if key not in self._used:
            if not self._samples:
                if len(self._used) >= self._blocks:
                    del self._used[next(iter(self._used))]
            else:
                self._insert(self._shard(key), key)
        self._use(key)
        self.writes += 1

    def _use(self, key: Any) -> None:
        self._time += 1
        self._used.pop(key, None)
        self._used[key] = self._time
        self.load[self._shard(key)] += 1

    def _shard(self, key: Any) -> int:
        return crc_hqx(str(key).encode(), 0) % _SLOTS * len(self.load) // _SLOTS

    def _insert(self, shard: int, key: Any) -> None:
        keys, places = self._keys[shard], self._places[shard]
        if len(keys) >= self._room:
            victim = self._victim(shard)
            place, last = places.pop(victim), keys.pop()
            if last != victim:
                keys[place], places[last] = last, place
            del self._used[victim]
        places[key] = len(keys)
        keys.append(key)

    def _victim(self, shard: int) -> Any:
        keys, pool = self._keys[shard], self._pools[shard]
        while True:
            known = {key for _, key in pool}
            seen = self._draw.sample(keys, min(self._samples, len(keys)))
            pool += [(self._used[key], key) for key in seen if key not in known]
            pool.sort(key=lambda candidate: candidate[0])
            del pool[_POOL:]
            while pool:
                _, key = pool.pop(0)
                if key in self._places[shard]:  # else it has left
                    return key
