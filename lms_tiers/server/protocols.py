"""Which of the two protocols a request speaks: LMCache's own, or the extension."""

from __future__ import annotations

from lms_tiers.server import extended, plain
from lms_tiers.server.session import Session, Steps


def answer(session: Session, header: bytearray) -> Steps | None:
    """Serve one request, or return the steps that are left; see `Session`."""
    return extended.answer(session, header) if extended.speaks(header) else plain.answer(session, header)
