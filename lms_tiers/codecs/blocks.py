"""Encoding and decoding all blocks of a chunk, on one thread or several.

The calling thread takes part: it and the executor's threads pull block numbers from one counter, so that a busy
executor delays nobody.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from lms_tiers.codecs.form import BlockFormat, Buffer, block_count, encode_bound, flat
from lms_tiers.codecs.workers import Crew
from lms_tiers.errors import CodecError, InvalidBufferError


def encode_blocks(
    form: BlockFormat, data: memoryview, out: Buffer | None, executor: Executor | None = None
) -> list[Buffer]:
    """All blocks of `data`, each in its own slot of `out` (or the data's own memory); see `Codec.encode`."""
    size = form.block_bytes
    count = block_count(len(data), size)
    slot = form.bound(min(size, len(data))) if count else 0
    needed = slot * count
    if out is None:
        target = memoryview(bytearray(needed))
    else:
        target = flat(out, writable=True)
        if len(target) < needed:
            raise InvalidBufferError(
                f"the scratch has {len(target)} bytes, {form.layout} needs {needed}: "
                f"give encode_bound(length) = {encode_bound(len(data))}."
            )
    blocks: list[Buffer] = [b""] * count

    def encode(i: int) -> None:
        blocks[i] = form.encode_block(data[i * size : (i + 1) * size], target[i * slot : (i + 1) * slot])

    _each(count, encode, executor)
    return blocks


def decode_blocks(
    form: BlockFormat, block_bytes: int, blocks: Sequence[Buffer], out: memoryview, executor: Executor | None = None
) -> None:
    """Decode all blocks into `out`; see `decode_into`, which has checked the counts."""

    def decode(i: int) -> None:
        form.decode_block(blocks[i], out[i * block_bytes : (i + 1) * block_bytes])

    try:
        _each(len(blocks), decode, executor)
    except (ValueError, TypeError, BufferError) as error:
        raise CodecError(form.layout, f"damaged block: {error}") from error


def _each(count: int, work: Callable[[int], None], executor: Executor | None) -> None:
    """Call ``work(0 … count - 1)``, also on the executor's threads; the first error is raised after all stopped."""
    if executor is None or count < 2:
        for i in range(count):
            work(i)
        return
    todo = itertools.count()  # next() is atomic

    def run() -> None:
        for i in todo:
            if i >= count:
                return
            work(i)

    # What was not begun is not waited for; what was must end before the buffers change hands.
    if isinstance(executor, Crew):
        shares = executor.lend(run, count - 1)
        try:
            run()
        finally:
            errors = [share.settle() for share in shares]
    else:
        workers = min(count - 1, getattr(executor, "_max_workers", count))
        futures: list[Future[None]] = [executor.submit(run) for _ in range(workers)]
        try:
            run()
        finally:
            errors = [f.exception() for f in futures if not f.cancel()]
    for error in errors:
        if error is not None:
            raise error
