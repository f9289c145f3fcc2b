"""What `lms-tiers doctor` says of an object store."""

from __future__ import annotations

from collections.abc import Iterator

from lms_tiers.plugins.s3.backend import S3Backend


def probe(backend: S3Backend) -> Iterator[tuple[str, str, str]]:
    """State, finding and advice: it was listed when it was opened; what lifecycle rules it has nobody is told."""
    advice = "see that a lifecycle rule lets old chunks and aborted uploads go: the tier has no capacity of its own."
    yield "ok", "the bucket can be listed", advice
