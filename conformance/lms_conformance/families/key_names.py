"""KEY, by name: keys that look like what formats call their own files, fields and notes."""

from __future__ import annotations

from lms_conformance.chunks import Chunk
from lms_conformance.spec import prop
from lms_conformance.trial import Trial

_ENDS = (
    ".tmp", ".temp", ".part", ".lock", ".meta", ".metadata", ".json", ".idx", ".index", ".bak", ".old", ".new",
    ".0", ".1", ":meta", "_meta", "-meta", "/meta", "@meta", "#meta", ":data", ".data", "/data", ":len", "~", "$",
    ".swp", ".crc", ".shm",
)  # fmt: skip

_BEGINNINGS = (".", "..", "_", "__", "~", "tmp-", "tmp_", "tmp/", "meta:", "meta/", "lock:", "#", "$", "-", "--", "+")

_WHOLE = (
    "index", "meta", "metadata", "data", "state", "lock", "LOCK", "keys", "__index__", "__meta__", "__state__",
    "manifest", "MANIFEST", "CURRENT", "journal", "data.mdb", "lock.mdb", "null", "None", "nil", "NaN", "true", "0",
    "-1", "con", "NUL", "a/b", "a%2Fb", "a%2fb", "a%252Fb", "a%20b", "a+b", "a b", "a&b", "a&amp;b", r"a\x2fb",
    r"a\/b", "a=b", "a?b=c",
)  # fmt: skip

#: Keys as short as they come, and one as an engine makes them.
_BASES = ("a", "m@1@0@1f@half")


@prop("KEY-14", "Names that formats give to their own files, fields and notes are ordinary keys.", since="1.1")
def _own_names(trial: Trial) -> None:
    backend = trial.open()
    ends = [base + end for base in _BASES for end in ("", *_ENDS)]
    texts = [*_WHOLE, *ends, *(beginning + base for base in _BASES for beginning in _BEGINNINGS)]
    model = {text: Chunk(10 + i, 16 + i % 5, i % 4) for i, text in enumerate(texts)}
    with trial.quiet(f"# {len(texts)} keys such as {texts[-40]!r} are put, and again the other way round"):
        for text, chunk in model.items():
            backend.put(text, chunk)
        backend.expect_model(model)
        for i, text in enumerate(reversed(texts)):
            model[text] = Chunk(300 + i, 9 + i % 4, i % 3)
            backend.put(text, model[text])
        backend.flush()
        backend.expect_model(model)
        if trial.caps.remove:
            for text in texts[::2]:
                backend.remove(text)
                del model[text]
            backend.expect_model(model, texts[::2])
