"""Generated traces: one seed one file, prefix chains that hold, and statistics near a real conversation trace."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections import Counter
from pathlib import Path

import pytest

from lms_tiers.errors import ConfigError
from lms_tiers.replay.formats import BLOCK_TOKENS
from lms_tiers.replay.generate import TraceShape, generate_trace, summarize_trace, write_trace
from lms_tiers.replay.trace import Request, read_trace


@pytest.fixture(scope="module")
def trace() -> list[Request]:
    return generate_trace(TraceShape(requests=3000, seed=5))


def text_of(requests: list[Request]) -> str:
    file = io.StringIO()
    write_trace(requests, file)
    return file.getvalue()


def test_one_seed_gives_one_file_and_another_seed_another() -> None:
    shape = TraceShape(requests=300, seed=9)
    assert text_of(generate_trace(shape)) == text_of(generate_trace(shape))
    assert text_of(generate_trace(shape)) != text_of(generate_trace(TraceShape(requests=300, seed=10)))


def test_the_file_of_a_seed_is_the_same_in_every_version_of_this_package() -> None:
    text = text_of(generate_trace(TraceShape(requests=300, seed=9)))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "6e06f5bffd00eed3ea46978f98342165c58df0129183fed513f6162c7cedf67d"
    )


def test_the_reader_takes_what_was_written(trace: list[Request], tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text_of(trace))
    assert read_trace(path) == trace


def test_there_are_as_many_requests_as_asked_for_in_order_of_time(trace: list[Request]) -> None:
    assert len(trace) == 3000
    assert all(a.timestamp <= b.timestamp for a, b in itertools.pairwise(trace))
    assert trace[-1].timestamp <= 1 + 1000 * 3000 / 3.4


def test_every_block_has_one_parent_and_one_depth(trace: list[Request]) -> None:
    places: dict[object, tuple[object, int]] = {}
    for request in trace:
        parent: object = None
        for depth, block in enumerate(request.hash_ids):
            assert places.setdefault(block, (parent, depth)) == (parent, depth)
            parent = block


def test_a_request_has_one_block_for_each_512_tokens_begun(trace: list[Request]) -> None:
    assert all(len(r.hash_ids) == -(-r.input_length // BLOCK_TOKENS) for r in trace)


def test_a_partly_filled_block_is_never_shared(trace: list[Request]) -> None:
    uses = Counter(block for request in trace for block in request.hash_ids)
    assert all(uses[r.hash_ids[-1]] == 1 for r in trace if r.tail_is_partial())


def test_ids_are_numbered_in_order_of_appearance(trace: list[Request]) -> None:
    seen = list(dict.fromkeys(block for request in trace for block in request.hash_ids))
    assert seen == list(range(len(seen)))


def test_statistics_are_near_those_of_the_conversation_trace() -> None:
    # 12,031 requests of the real one: 24.0 blocks a request, median 14, p90 54, p99 167, most 247; 36.6 % hits.
    summary = summarize_trace(generate_trace(TraceShape(requests=12_031)))
    assert 22 <= summary.references / summary.requests <= 26
    assert 12 <= summary.chain_p50 <= 16
    assert 48 <= summary.chain_p90 <= 60
    assert 140 <= summary.chain_p99 <= 190
    assert summary.chain_max == 247
    assert 0.34 <= summary.infinite_hit_ratio <= 0.40


def test_conversations_share_system_prompts_by_zipfs_law(trace: list[Request]) -> None:
    roots = [count for _, count in Counter(r.hash_ids[0] for r in trace).most_common()]
    assert len(roots) == 16
    assert roots[0] > 3 * roots[4] > 3 * roots[15]


def test_a_single_conversation_goes_on_for_all_requests() -> None:
    trace = generate_trace(TraceShape(requests=12, conversations=1))
    assert len({r.hash_ids[0] for r in trace}) == 1
    assert len(trace) == 12


def test_as_many_conversations_as_requests_share_system_prompts_only() -> None:
    trace = generate_trace(TraceShape(requests=40, conversations=40, system_prompts=1))
    shared = set(trace[0].hash_ids).intersection(*(r.hash_ids for r in trace))
    uses = Counter(block for request in trace for block in request.hash_ids)
    assert all(count == 1 for block, count in uses.items() if block not in shared)


def test_an_empty_summary_divides_nothing() -> None:
    assert summarize_trace([]).infinite_hit_ratio == 0.0


@pytest.mark.parametrize(
    "wrong",
    [{"requests": 0}, {"requests": 5, "conversations": 6}, {"conversations": 0}, {"system_prompts": 0}, {"rate": 0.0},
     {"rate": float("nan")}],
)  # fmt: skip
def test_impossible_shapes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        TraceShape(**wrong)  # type: ignore[arg-type]  # what a user may type
