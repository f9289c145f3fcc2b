"""OPT, of `in_file`: what is said of a file's bytes holds of them."""

from __future__ import annotations

import os

import xxhash

from lms_conformance.chunks import KIB, Chunk, key
from lms_conformance.reading import expect_meta
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_tiers.interface import ChunkInFile

SIZES = (0, 1, 100, 4096, 4097, 300 * KIB + 1)


def _there(place: ChunkInFile) -> bytes:
    return os.pread(place.fd, place.meta.length, place.offset)


def _expect(place: ChunkInFile, chunk: Chunk) -> None:
    expect_meta(place.meta, chunk, "in_file")
    expect(_there(place) == chunk.bytes(), f"the bytes of {chunk!r} where in_file says", "others")
    wanted = xxhash.xxh3_64_intdigest(chunk.bytes())
    expect(place.checksum == wanted, f"in_file to tell the checksum of {chunk!r}, {wanted:x}", f"{place.checksum:x}")


@prop(
    "OPT-15",
    "What in_file answers holds throughout its block: where the chunk's bytes lie, and their checksum.",
    since="1.1",
)
def _in_file(trial: Trial) -> None:
    backend = trial.open()
    b = backend.backend
    for size in SIZES:
        chunk = Chunk(3, size, 2)
        backend.put("a", chunk)
        trial.record(f"with {backend.var}.in_file(key('a')) as place: ...  # beside puts and a removal")
        with b.in_file(key("a")) as place:
            if place is not None:
                _expect(place, chunk)
                backend.put("a", Chunk(4, size, 2))
                if trial.caps.remove:
                    backend.remove("a")
                for number in range(4):
                    backend.put(f"b{number}", Chunk(5 + number, size, 2))
                _expect(place, chunk)
        for name in ("absent", *(["a"] if place is not None and trial.caps.remove else [])):
            with b.in_file(key(name)) as other:
                expect(other is None, f"in_file of {name!r}, which is not held, to answer None", repr(other))
        backend.put("a", chunk)
        backend.expect_chunk("a", chunk)
    try:
        with b.in_file(key("a")):
            raise KeyError("mine")
    except KeyError:
        return
    violate("the exception of a block of in_file to come through", "it was swallowed")
