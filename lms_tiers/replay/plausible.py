"""Doubts about a trace as it was read: figures that no machine and no trace can have, and the option that mends them.

Nothing is refused here: a doubt is a sentence for a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from lms_tiers.replay.formats import TimeUnit
from lms_tiers.replay.trace import Request

#: Requests a second that one store is never asked, each of them a prompt to a model; real traces have below 10.
_MOST_REQUESTS: Final = 1000
#: Fewer requests than these may well come at one moment.
_LEAST_REQUESTS: Final = 10
#: Bytes a second that no device of a budget's tier takes: high-bandwidth memory, RAM of all sockets, a full PCIe bus.
_MOST_BYTES: Final = {"gpu": 10**13, "pinned": 10**12, "cpu": 10**12, "disk": 64 * 10**9, "lmdb": 64 * 10**9}
_BLOCK_SIZES: Final = tuple(2**power for power in range(13))
_DAY: Final = 86_400


def reading_doubts(requests: Sequence[Request], unit: TimeUnit = TimeUnit.MILLISECONDS) -> list[str]:
    """What speaks against the way a trace was read.

    Parameters
    ----------
    requests : sequence of Request
    unit : TimeUnit
        The unit its timestamps were read in.
    """
    return [*_rate_doubts(requests, unit), *_block_doubts(requests)]


def _rate_doubts(requests: Sequence[Request], unit: TimeUnit) -> Iterable[str]:
    if len(requests) < _LEAST_REQUESTS:
        return
    times = [request.timestamp for request in requests]
    seconds = (max(times) - min(times)) / 1000
    rate = (len(times) - 1) / seconds if seconds else float("inf")
    if rate > _MOST_REQUESTS:
        units = list(TimeUnit)
        longer = units[: units.index(unit)]
        mend = f"give --time-unit {longer[-1]} if they count that" if longer else "its times are not to be trusted"
        shown = f"{rate:,.0f} requests a second" if seconds else "all requests at one moment"
        yield f"{shown}, with timestamps in {unit}: no machine serves that; {mend}."


def _block_doubts(requests: Sequence[Request]) -> Iterable[str]:
    wrong = [request for request in requests if not _fits(request, request.block_tokens)]
    if not wrong:
        return
    first = wrong[0]
    fitting = [size for size in _BLOCK_SIZES if all(_fits(request, size) for request in requests)]
    mend = f"give --block-tokens {fitting[-1]}, which fits all" if fitting else "give --block-tokens"
    yield (
        f"{len(wrong):,} of {len(requests):,} requests have a number of blocks that blocks of {first.block_tokens} "
        f"tokens do not give, such as {first.input_length:,} tokens in {len(first.hash_ids):,} blocks: {mend}."
    )


def _fits(request: Request, block_tokens: int) -> bool:
    """Whether the ids are those of all blocks, or of all full ones: both are published."""
    full, rest = divmod(request.input_length, block_tokens)
    return full <= len(request.hash_ids) <= full + bool(rest)


def write_doubts(writes: Iterable[tuple[str, int]]) -> list[str]:
    """What speaks against bytes written a day to each tier, by the tier's name in a budget.

    Examples
    --------
    >>> write_doubts([("disk", 10**15)])
    []
    """
    return [
        f"{per_day / _DAY / 1e9:,.0f} GB a second written to {name}: no such device takes more than "
        f"{_MOST_BYTES[name] / 1e9:,.0f}; check --time-unit and --block-bytes."
        for name, per_day in writes
        if per_day / _DAY > _MOST_BYTES[name]
    ]
