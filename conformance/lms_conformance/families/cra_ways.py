"""CRA, by all ways to read: none of them answers damage, and what is put over it is there."""

from __future__ import annotations

from typing import Final

from lms_conformance.chunks import Chunk
from lms_conformance.families.cra import room_of
from lms_conformance.reading_ways import WAYS
from lms_conformance.spawned import zygote
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate

#: Of pages and parts.
_SIZES: Final = (5000, 300 * 1024)


@prop(
    "CRA-09",
    "A chunk whose stored bytes were flipped is a miss by every way to read, is told of, and can be put again.",
    since="1.1",
    needs=["persistent", "damage"],
    marks=["damage read back"],
)
def _by_all_ways(trial: Trial) -> None:
    for size in _SIZES:
        trial.anew()
        chunks = {way: Chunk(11 + i, size + i, meta=("uint8", "KV_2LTD", (size + i,))) for i, way in enumerate(WAYS)}
        backend = trial.open(capacity=room_of(trial))
        served = bool(trial.harness.start(backend.path, backend.capacity))  # a server alone knows of its medium
        for k, chunk in {**chunks, "whole": Chunk(99, size)}.items():
            backend.put(k, chunk)
        backend.flush()
        backend.close()
        trial.harness.stop(backend.path)
        for k, chunk in chunks.items():
            flipped = trial.harness.corrupt(backend.path, chunk.bytes())
            expect(flipped, f"stored bytes of {k!r} to flip below the place", "nothing stored")
        trial.record("# bits of each chunk but one are flipped; another process reopens, and reads each by another way")
        told = {k: (c.seed, c.size) for k, c in chunks.items()}
        with zygote().job("read ways", trial.harness, backend.path, backend.capacity, chunks=told) as job:
            ended = False
            for message in job.messages():
                ended |= "stats" in message
                _look(trial, message, served)
        expect(ended, "the reader to survive flipped bytes", f"it died with status {zygote().status}")


def _look(trial: Trial, message: dict[str, object], served: bool) -> None:
    if message.get("found") is False:
        trial.mark("damage read back")
    if message.get("wrong"):
        violate(f"{message['way']} of a damaged chunk to be a miss, or exact", message["wrong"])
    if message.get("again"):
        violate(f"{message['way']} to answer what was put over a damaged chunk", message["again"])
    if "raised" in message:
        violate(
            "reads and writes of a place with damage to raise nothing", f"{message['raised']}: {message['message']}"
        )
    if "stats" in message and message["missed"] and not served:
        expect(message["stats"] != 0, "damage that was found to be counted in stats() as corrupt or a failure", "0")
