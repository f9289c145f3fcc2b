"""The work of one store or load, in steps: what is moved between LMCache's memory and the store, and until when it may.

LMCache lends its memory until a result is down, but not for ever: its own locks end by a time of theirs, and then it
may give the memory to others. A transfer that comes near that time is given up, and what it stored meanwhile is
removed: its bytes could be another chunk's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final

from lms_tiers.doors.job import Step, Work
from lms_tiers.doors.lent import Lent
from lms_tiers.doors.lmcache.names import object_meta
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta
from lms_tiers.request import RequestContext
from lms_tiers.tiered.store import TieredStore

_log = logging.getLogger(__name__)

#: What a transfer does, step by step.
Steps = Generator[Step, None, None]

#: Bytes of one step: a batch for the store, and what a closing adapter waits for.
_STEP_BYTES: Final = 16 << 20

#: LMCache keeps in its own memory what it loads: a faster tier here would hold it twice.
_LOADING: Final = RequestContext(promote=False)


def lend(obj: Any, views: ExitStack) -> memoryview:
    """The bytes of one of LMCache's memory objects; `views` gives them back."""
    raw = views.enter_context(memoryview(obj.byte_array))
    # Its format is "<B", which is a stranger to most of Python.
    return views.enter_context(raw.cast("B")) if raw.format != "B" else raw


def storing(
    store: LMSBackendInterface, keys: Sequence[CacheEngineKey], objects: Sequence[Any], *, in_time: Callable[[], bool],
    held: Callable[[Sequence[str]], Sequence[ChunkMeta | None]],
    stored: Callable[[Sequence[tuple[str, ChunkMeta]]], None],
) -> Work:  # fmt: skip
    """Store objects; a key that is held with the same metadata counts as stored, and moves nothing.

    Parameters
    ----------
    in_time : callable
        Whether the memory is still LMCache's to lend.
    held : callable
        What is stored under each of some keys' texts already.
    stored : callable
        Told of what was stored by each step, before its result counts.
    """

    def work() -> Steps:
        for step in _steps(objects):
            if not in_time():
                return
            with ExitStack() as views:
                chunks: dict[str, tuple[ChunkMeta, list[memoryview]]] = {}
                for at in step:
                    view = lend(objects[at], views)
                    chunks[keys[at].to_string()] = object_meta(keys[at], objects[at], len(view)), [view]
                there = {text for text, meta in zip(chunks, held(list(chunks)), strict=True) if meta == chunks[text][0]}
                put = _put(store, {text: chunk for text, chunk in chunks.items() if text not in there})
                if not in_time():
                    store.remove_many([keys[at] for at in step if keys[at].to_string() in put])
                    return
                stored([(text, chunks[text][0]) for text in put])
                moved = sum(chunks[text][0].length for text in put)
                del view, chunks
            yield [at for at in step if keys[at].to_string() in there | put], moved

    return work


def _put(store: LMSBackendInterface, lent: dict[str, tuple[ChunkMeta, list[memoryview]]]) -> set[str]:
    """Store what is lent: by one call, and where that fails one by one, so that one chunk costs no other."""
    if not lent:
        return set()
    source = Lent(lent)
    messages = [meta.message(CacheEngineKey.from_string(text)) for text, (meta, _) in lent.items()]
    try:
        return {m.key.to_string() for m, ok in zip(messages, store.put_from(messages, source), strict=True) if ok}
    except LmsTiersError as error:
        _log.warning("storing %d chunks by one call failed, each is tried by itself: %s", len(lent), error)
    put = set()
    for message in messages:
        try:
            if store.put_from([message], source)[0]:
                put.add(message.key.to_string())
        except LmsTiersError as error:
            _log.warning("a chunk was not stored: %s", error)
    return put


def loading(
    store: LMSBackendInterface, keys: Sequence[CacheEngineKey], objects: Sequence[Any], *, in_time: Callable[[], bool]
) -> Work:
    """Read chunks into objects; one of another length, format, dtype or shape is a miss, and nothing is written."""

    def work() -> Steps:
        for step in _steps(objects):
            if not in_time():
                return
            with ExitStack() as views:
                buffers = [lend(objects[at], views) for at in step]
                wanted = [
                    object_meta(keys[at], objects[at], len(buffer)) for at, buffer in zip(step, buffers, strict=True)
                ]
                requests = [(keys[at], [buffer]) for at, buffer in zip(step, buffers, strict=True)]
                found = _read(store, requests, wanted)
                del buffers, requests
            there = [at for at, meta in zip(step, found, strict=True) if meta is not None]
            yield there, sum(meta.length for meta in found if meta is not None)

    return work


def _read(
    store: LMSBackendInterface, requests: Sequence[tuple[CacheEngineKey, Sequence[memoryview]]],
    wanted: Sequence[ChunkMeta],
) -> list[ChunkMeta | None]:  # fmt: skip
    if isinstance(store, TieredStore):
        return store.get_many_into(requests, expected=wanted, context=_LOADING)
    return store.get_many_into(requests, expected=wanted)


def _steps(objects: Sequence[Any]) -> Iterator[list[int]]:
    """Positions of `objects` in order, some together."""
    step: list[int] = []
    size = 0
    for at, obj in enumerate(objects):
        step.append(at)
        size += obj.get_size()
        if size >= _STEP_BYTES:
            yield step
            step, size = [], 0
    if step:
        yield step
