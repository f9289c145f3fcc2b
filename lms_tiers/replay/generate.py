"""Makes request traces: multi-turn conversations over shared system prompts, drawn from one seed.

The draws use only `random.random`, which Python keeps stable, so that one seed gives one file, byte for byte.
Reading traces and replaying them live elsewhere.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, TextIO

from lms_tiers.errors import ConfigError
from lms_tiers.replay.formats import BLOCK_TOKENS
from lms_tiers.replay.trace import Request

_NORMAL: Final = NormalDist()
#: Requests a conversation has on average, where the number of conversations is not given.
_TURNS: Final = 1.63
#: Weight of a conversation without a second turn against one turn more: small values give long and short ones.
_STICKINESS: Final = 0.4
_ZIPF: Final = 1.1
_LONGEST_INPUT: Final = 126_000


@dataclass(frozen=True, slots=True)
class _Lengths:
    """A log-normal length in tokens, by its median; with probability `short` one around `short_median` instead."""

    median: float
    sigma: float
    short: float = 0.0
    short_median: float = 1.0
    short_sigma: float = 0.4

    def draw(self, rng: random.Random) -> int:
        short = rng.random() < self.short
        median, sigma = (self.short_median, self.short_sigma) if short else (self.median, self.sigma)
        return max(1, round(median * math.exp(sigma * _normal(rng))))


# Fitted to the conversation trace of Mooncake's FAST '25 release (docs/replay.md compares).
_SYSTEM: Final = _Lengths(700, 0.35)
_OPENING: Final = _Lengths(7_400, 1.05, short=0.24, short_median=500, short_sigma=0.7)
_FOLLOW_UP: Final = _Lengths(4_000, 1.1, short=0.6, short_median=150, short_sigma=1.0)
_ANSWER: Final = _Lengths(400, 0.35, short=0.25, short_median=60, short_sigma=1.2)
_THINK_S: Final = _Lengths(123, 0.95)
#: How often a turn goes back to an earlier point of its conversation (an edited or repeated question).
_EDITS: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceShape:
    """What to generate.

    Attributes
    ----------
    requests : int
        Requests in the trace.
    conversations : int or None
        Conversations they belong to, at most `requests`; None: one for each 1.63 requests.
    system_prompts : int
        Prompts shared by conversations, chosen with Zipf's law.
    rate : float
        Requests a second; conversations arrive as a Poisson process.
    seed : int
    """

    requests: int = 1000
    conversations: int | None = None
    system_prompts: int = 16
    rate: float = 3.4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ConfigError(f"a trace of {self.requests} requests is empty: ask for 1 or more.")
        if not 1 <= self.conversation_count <= self.requests:
            raise ConfigError(
                f"{self.conversations} conversations do not fit {self.requests} requests: each has one or more of them."
            )
        if self.system_prompts < 1:
            raise ConfigError(f"{self.system_prompts} system prompts: give 1 or more.")
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"a rate of {self.rate:g} requests a second is not positive.")

    @property
    def conversation_count(self) -> int:
        """The number of conversations, derived where it was not given."""
        return max(1, round(self.requests / _TURNS)) if self.conversations is None else self.conversations


def generate_trace(shape: TraceShape) -> list[Request]:
    """Draw a trace.

    A conversation opens with a system prompt and a first message; each further turn's input is the input before it,
    the answer to it and a new message. Blocks an input shares with an earlier one have the same ids, the partly
    filled last block never does. Ids are numbered in order of appearance.

    Returns
    -------
    list of Request
        Ordered by timestamp, in whole milliseconds.
    """
    rng = random.Random(shape.seed)
    fresh = itertools.count()
    prompts = [
        [next(fresh) for _ in range(max(1, _SYSTEM.draw(rng) // BLOCK_TOKENS))] for _ in range(shape.system_prompts)
    ]
    popularity = list(itertools.accumulate((rank + 1) ** -_ZIPF for rank in range(shape.system_prompts)))
    seconds = shape.requests / shape.rate
    drawn: list[Request] = []
    for turns in _turns(rng, shape.requests, shape.conversation_count):
        prompt = prompts[_choose(rng, popularity)]
        drawn += _conversation(rng, _times(rng, turns, seconds), prompt, fresh)
    drawn.sort(key=lambda request: request.timestamp)
    return _renumber(drawn)


def _turns(rng: random.Random, requests: int, conversations: int) -> list[int]:
    """Turns of each conversation: Pólya's urn, so that those with many turns get more."""
    counts = [1] * conversations
    extra: list[int] = []
    start = _STICKINESS * conversations
    for n in range(requests - conversations):
        if rng.random() * (start + n) < start:
            chosen = int(rng.random() * conversations)
        else:
            chosen = extra[int(rng.random() * n)]
        counts[chosen] += 1
        extra.append(chosen)
    return counts


def _times(rng: random.Random, turns: int, seconds: float) -> list[float]:
    """Seconds at which the turns of one conversation begin, all of them within the trace."""
    pauses = [float(_THINK_S.draw(rng)) for _ in range(turns - 1)]
    span = sum(pauses)
    if span > seconds:
        pauses = [pause * seconds / span for pause in pauses]
        span = seconds
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    return list(itertools.accumulate(pauses, initial=rng.random() * (seconds - span)))


def _conversation(
    rng: random.Random, times: Sequence[float], prompt: Sequence[int], fresh: Iterator[int]
) -> list[Request]:
    length = len(prompt) * BLOCK_TOKENS + _OPENING.draw(rng)
    shared = list(prompt)
    made: list[Request] = []
    for now in times:
        length = min(length, _LONGEST_INPUT)
        blocks = -(-length // BLOCK_TOKENS)
        chain = shared[:blocks] + [next(fresh) for _ in range(blocks - len(shared))]
        answer = min(_ANSWER.draw(rng), 2000)
        made.append(Request(round(now * 1000), length, answer, tuple(chain)))
        if rng.random() < _EDITS:
            length = len(prompt) * BLOCK_TOKENS + int(rng.random() * (length - len(prompt) * BLOCK_TOKENS))
            shared = chain[: length // BLOCK_TOKENS]
        else:
            shared = chain[: length // BLOCK_TOKENS]
            length += answer
        length += _FOLLOW_UP.draw(rng)
    return made


def _renumber(requests: list[Request]) -> list[Request]:
    number: dict[int | str, int] = {}
    return [
        Request(
            r.timestamp, r.input_length, r.output_length, tuple(number.setdefault(i, len(number)) for i in r.hash_ids)
        )
        for r in requests
    ]


def _normal(rng: random.Random) -> float:
    return _NORMAL.inv_cdf(rng.random() or 2.0**-53)


def _choose(rng: random.Random, cumulative: Sequence[float]) -> int:
    drawn = rng.random() * cumulative[-1]
    return next(i for i, weight in enumerate(cumulative) if drawn < weight)


def write_trace(requests: Iterable[Request], file: TextIO) -> None:
    """Write requests as a Mooncake trace, one JSON object a line."""
    for r in requests:
        record = {
            "timestamp": r.timestamp, "input_length": r.input_length, "output_length": r.output_length,
            "hash_ids": r.hash_ids,
        }  # fmt: skip
        file.write(json.dumps(record) + "\n")


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """What a trace is like.

    Attributes
    ----------
    requests, references, unique : int
        Requests, blocks they refer to, and different blocks.
    infinite_hits : int
        Prefix hits of a cache that forgets nothing.
    infinite_hit_ratio : float
    chain_p50, chain_p90, chain_p99, chain_max : int
        Blocks a request has.
    seconds : float
        From the first timestamp to the last.
    """

    requests: int
    references: int
    unique: int
    infinite_hits: int
    infinite_hit_ratio: float
    chain_p50: int
    chain_p90: int
    chain_p99: int
    chain_max: int
    seconds: float


def summarize_trace(requests: Sequence[Request]) -> TraceSummary:
    """Count a trace's blocks, and what an infinite cache would hit."""
    seen: set[int | str] = set()
    hits = 0
    chains = sorted(len(r.hash_ids) for r in requests)
    for r in requests:
        hits += next((i for i, block in enumerate(r.hash_ids) if block not in seen), len(r.hash_ids))
        seen.update(r.hash_ids)
    references = sum(chains)

    def percentile(p: int) -> int:
        return chains[min(len(chains) - 1, len(chains) * p // 100)] if chains else 0

    return TraceSummary(
        len(requests), references, len(seen), hits, hits / references if references else 0.0,
        percentile(50), percentile(90), percentile(99), percentile(100),
        (requests[-1].timestamp - requests[0].timestamp) / 1000 if requests else 0.0,
    )  # fmt: skip
