"""KEY: the identity of a key is its canonical text, compared byte for byte."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable
from functools import partial

from hypothesis import strategies as st

from lms_conformance.chunks import Chunk, DuckKey, key
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation, expect
from lms_tiers.errors import InvalidKeyError

#: Texts that file systems, URLs, SQL and formats treat specially; each differs from its neighbour by little.
SPECIAL = (
    "a/b", "a-b", "a_b", "a\\b", "a%2Fb", "a%2fb", "a@b", "a b", "a  b", " a b", "a b ",
    "a\tb", "a\nb", "a\x00b", "a\x00",
    "a", "..", ".", "../a", "a/../b", "a//b", "/a", "a/", "~", "*", "?", "a:b", "a;b", "'", '"',
    "a%", "%00", "CON", "a.",
    "\ufeffa", "a\u200b", "a\u00a0b", "\u202ea", "None", "null", "0", "00", "-1", "1e5",
    "{}", "{tmp}", "{0}", "%s", "$HOME",
)  # fmt: skip

#: Keys as LMCache writes them, now and before, and texts of no layout at all.
LAYOUTS = (
    "meta/Llama-3.1@8@3@00ff@bfloat16", "meta/Llama-3.1@8@3@ff@bfloat16", "m@1@0@1f@half@7", "m@1@0@1f@half@07",
    "m@1@0@1f@half@tag%v", "m@1@0@1f@half@7@tag%v@other%w%x", "vllm@m@1@0@1f", "vllm@m@1@0@1f@tag%v",
    "a@b@1@0@1f@float",
    "m@01@0@1f@half", "m@1@0@-1f@half", "m@1@0@1F@half", "m@1@0@1f@float16", "not a layout", "@@@@", "m@1@0@1f@half@",
)  # fmt: skip


def _each_keeps_its_own(trial: Trial, texts: list[str]) -> None:
    try:
        _keep(trial, texts)
    except Violation:
        # Two keys that are taken for one show it as well as fifty.
        for pair in itertools.islice(itertools.combinations(texts, 2), 600):
            trial.anew()
            _keep(trial, list(pair))
        trial.anew()
        _keep(trial, texts)


def _keep(trial: Trial, texts: list[str]) -> None:
    backend = trial.open()
    chunks = {text: Chunk(seed=10 + i, size=16 + i % 3) for i, text in enumerate(texts)}
    for text, chunk in chunks.items():
        backend.allows(partial(backend.put, text, chunk), f"put under the legal key {text!r}")
    for text, chunk in chunks.items():
        backend.expect_chunk(text, chunk, f"the chunk put under {text!r}")
    backend.expect_keys(chunks, "every key as it was spelled")


@prop("KEY-01", "The composed and the decomposed spelling of a letter are two keys.")
def _normal_forms(trial: Trial) -> None:
    words = ["é", "Å", "ﬁ", "ô", "각", "ｱ"]
    texts = {unicodedata.normalize(form, f"m-{w}") for w in words for form in ("NFC", "NFD", "NFKC", "NFKD")}
    _each_keeps_its_own(trial, sorted(texts))


@prop("KEY-02", "Keys that differ only in case are different keys.")
def _case(trial: Trial) -> None:
    _each_keeps_its_own(
        trial, ["model@1@0@ff@half", "Model@1@0@ff@half", "MODEL@1@0@ff@half", "ß", "ss", "SS", "i", "İ", "ı"]
    )


@prop("KEY-03", "Characters special to file systems, URLs and formats are ordinary in a key.")
def _special(trial: Trial) -> None:
    _each_keeps_its_own(trial, list(SPECIAL))


@prop("KEY-04", "Long keys, up to the declared limit and at least 150 bytes, differ by their last byte.")
def _longest(trial: Trial) -> None:
    limit = trial.caps.max_key_bytes
    lengths = {64, 65, 127, 128, 129, 149, 150, *([limit - 1, limit] if limit else [255, 256, 511, 512, 1024, 4096])}
    expect(limit is None or limit >= 150, "max_key_bytes of at least 150", limit)
    texts = [c * (n - 1) + end for n in sorted(lengths) if not limit or n <= limit for c in "k" for end in "xy"]
    if not limit or limit >= 150:
        texts += ["ü" * 74 + "x", "ü" * 74 + "y"]
    _each_keeps_its_own(trial, texts)


@prop("KEY-05", "A key over the declared limit raises InvalidKeyError and nothing is stored.", needs=["key_limit"])
def _over_limit(trial: Trial) -> None:
    limit = trial.caps.max_key_bytes or 0
    backend = trial.open()
    longest, over = "k" * limit, "k" * limit + "x"
    backend.put(longest, Chunk(3, 9))
    for text in (over, "ü" * (limit // 2 + 1)):
        what = f"a key of {len(text.encode())} bytes, with a limit of {limit},"
        backend.rejects(InvalidKeyError, partial(backend.put, text, Chunk(4, 9)), what)
    backend.expect_model({longest: Chunk(3, 9)})


@prop("KEY-06", "A key that is the beginning of another is a key of its own.")
def _prefixes(trial: Trial) -> None:
    _each_keeps_its_own(
        trial, ["k", "kk", "kkk", "kkk/", "kkk/k", "m@1@0@1@half", "m@1@0@1@half@1", "m@1@0@1@half@1@t%v", "m@1"]
    )


@prop("KEY-07", "Keys of every layout, known or not, are listed exactly as they were put.")
def _layouts(trial: Trial) -> None:
    _each_keeps_its_own(trial, list(LAYOUTS))


@prop(
    "KEY-08",
    "A key that is no text, empty or not encodable raises InvalidKeyError from every call, and nothing changes.",
)
def _unusable(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 9))
    bad = [DuckKey(""), DuckKey("\ud800"), DuckKey("a\udcff"), DuckKey(b"a"), DuckKey(None), DuckKey(7), object()]
    for k in bad:
        calls: dict[str, Callable[[], object]] = {
            "put": partial(backend.put, k, Chunk(4, 9)),
            "get": partial(backend.get, k),
            "contains": partial(backend.contains, k),
        }
        if trial.caps.remove:
            calls["remove"] = partial(backend.remove, k)
        for name, call in calls.items():
            backend.rejects(InvalidKeyError, call, f"{name} of the unusable key {k!r}")
    backend.expect_model({"a": Chunk(3, 9)})


@prop("KEY-09", "Any object with to_string() is a key: the same text is the same key.")
def _duck(trial: Trial) -> None:
    backend = trial.open()
    theirs = DuckKey("m@1@0@1f@half")
    backend.allows(lambda: backend.put(theirs, Chunk(3, 20)), "put under another library's key")
    for k in (DuckKey("m@1@0@1f@half"), key("m@1@0@1f@half")):
        backend.expect_chunk(k, Chunk(3, 20))
    backend.put(key("x"), Chunk(4, 21))
    backend.expect_chunk(DuckKey("x"), Chunk(4, 21))
    backend.put(DuckKey("x"), Chunk(5, 22))
    backend.expect_model({"m@1@0@1f@half": Chunk(3, 20), "x": Chunk(5, 22)})


def _texts() -> st.SearchStrategy[list[str]]:
    letters = st.characters(exclude_categories=["Cs"])
    drawn = st.text(letters, min_size=1, max_size=12)
    related = st.builds(lambda a, b: a + b, st.sampled_from(SPECIAL), st.text(letters, max_size=3))
    return st.lists(drawn | related, min_size=2, max_size=12, unique=True)


@prop("KEY-10", "Drawn keys never collide: each keeps the chunk put under it.", given=_texts)
def _drawn(trial: Trial, texts: list[str]) -> None:
    _each_keeps_its_own(trial, texts)


@prop("KEY-11", "A thousand keys that differ in their hash alone never collide.")
def _hashes(trial: Trial) -> None:
    backend = trial.open()
    texts = [f"meta-llama/Llama-3.1-8B@1@0@{i * 0x9E3779B97F4A7C15 % 2**64:016x}@bfloat16" for i in range(1, 1001)]
    with trial.quiet(
        "for i, k in enumerate(texts):\n    backend.put(Chunk(100 + i, 24).message(key(k)), Chunk(100 + i, 24).data())"
    ):
        for i, text in enumerate(texts):
            backend.put(text, Chunk(100 + i, 24))
        for i, text in enumerate(texts):
            backend.expect_chunk(text, Chunk(100 + i, 24), f"the chunk put under {text!r}")
