"""A fleet on paper beside four live stores: the same hits, within 1 %. Tiers are larger than a request.

Over a Redis Cluster: tests/plugins/redis/test_fleet.py.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from lms_conformance.shared import SharedReference, forget_engine

from lms_tiers import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.replay.generate import TraceShape, generate_trace
from lms_tiers.replay.simulate import policy_spec, prepare
from lms_tiers.replay.simulate_fleet import Route, Router, simulate_fleet
from lms_tiers.replay.trace import Request
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from tests.depth import some
from tests.plugins.redis.engine import PATIENCE, until

HOSTS = 4
BLOCK = 4096
NAME = "fleet-live"


class Recent(SharedReference):
    """An engine that evicts what was not put or read for longest."""

    def get_many(self, keys: Sequence[Any]) -> Any:
        found = super().get_many(keys)
        with self.engine.lock:
            for key, obj in zip(keys, found, strict=True):
                if obj is not None:
                    self.engine.chunks.move_to_end(key.to_string())
        return found


def live(stores: Sequence[TieredStore], requests: Sequence[Request]) -> list[int]:
    """Hits of all, of each private tier and of the shared one; every request comes when the last one's puts are sent."""
    router, hits = Router(Route.SESSION, HOSTS), 0
    for number, request in enumerate(requests):
        store = stores[router.choose(request.hash_ids)]
        keys = [OpaqueKey(str(block)) for block in request.hash_ids]
        with store.request(number, keys[-1:] if request.tail_is_partial() else []):
            found = store.get_many(keys[: store.contains_prefix(keys)])
            run = len(list(itertools.takewhile(lambda obj: obj is not None, found)))
            assert all(bytes(obj.data) == body(k) for k, obj in zip(keys, found, strict=False) if obj is not None)
            store.put_many([item(key) for key in keys[run:]])
        until(partial(_sent, store))
        store.drain(PATIENCE)  # its movers have done what they do between two requests
        hits += run
    stats = [store.stats() for store in stores]
    levels = range(len(stats[0].tiers))
    return [hits, *(sum(s.tiers[level].hits for s in stats) for level in levels), sum(edge(s).hits for s in stores)]


def _sent(store: TieredStore) -> bool:
    return not edge(store).unsent


def edge(store: TieredStore) -> Any:
    return store.stats().shared


def body(key: OpaqueKey) -> bytes:
    return (key.to_string().encode() * BLOCK)[:BLOCK]


def item(key: OpaqueKey) -> Any:
    return ChunkMeta(BLOCK, MemoryFormat.KV_2LTD, "uint8", (BLOCK,)).message(key), bytearray(body(key))


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return list(generate_trace(TraceShape(requests=500, seed=3)))


def paper(requests: Sequence[Request], private: Sequence[int], shared: int) -> list[int]:
    found = simulate_fleet(policy_spec("lru"), prepare(requests), HOSTS, private, shared, Route.SESSION, samples=0)
    return [found.prefix_hits, *found.private_hits, found.shared_hits]


@pytest.fixture
def in_memory() -> Iterator[Callable[[int, int, int], list[TieredStore]]]:
    """Opens the hosts of a fleet over an engine in this process; sizes in blocks."""
    with ExitStack() as stack:

        def tier(name: str, blocks: int) -> TierConfig:
            backend = LMSLocalBackend()
            capacity = blocks * backend.reserve_bytes(BLOCK)
            return TierConfig(name, backend, capacity, Lru(capacity, time.monotonic))

        def opened(first: int, second: int, shared: int) -> list[TieredStore]:
            return [
                stack.enter_context(
                    TieredStore(
                        [
                            tier("first", first),
                            tier("second", second),
                            TierConfig("pool", Recent(NAME, shared * BLOCK), None, None, deadline=PATIENCE),
                        ],
                        back_pressure=PATIENCE,
                    )
                )
                for _ in range(HOSTS)
            ]

        yield opened
        stack.close()
        forget_engine(NAME)


@pytest.mark.parametrize("sizes", some([(300, 500, 1500), (300, 600, 6000)], (300, 500, 1500).__eq__))
def test_four_hosts_hit_what_they_hit_on_paper(
    in_memory: Callable[[int, int, int], list[TieredStore]], requests: list[Request], sizes: tuple[int, int, int]
) -> None:
    found, expected = live(in_memory(*sizes), requests), paper(requests, sizes[:2], sizes[2])
    assert found[0] == pytest.approx(expected[0], rel=0.01)
    assert found[1:] == pytest.approx(expected[1:], abs=0.02 * expected[0])
    assert min(found) > 20
