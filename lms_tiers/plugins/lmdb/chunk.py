"""A put on its way, from its arguments to its record."""

from __future__ import annotations

from dataclasses import dataclass, field

from lms_tiers.plugins.lmdb.layout import Extent, Form, Manifest, record_bytes


@dataclass(slots=True, eq=False)
class Chunk:
    """A put on its way: `pieces` are its `stream` stored bytes; the last five fields come with its grant.

    `again` is the encoded copy of a chunk that is stored raw: it has that one's sequence number, and takes its place
    only while that one is there.
    """

    text: str
    key: bytes
    form: Form
    created: int
    pieces: list[memoryview]
    stream: int
    blocks: tuple[int, ...] = ()
    checksum: int = 0
    scratch: bytearray | None = None
    again: bool = False
    sequence: int = 0
    extents: list[Extent] = field(default_factory=list)
    record: bytes = b""
    charged: int = 0
    pages: int = 0

    @property
    def least(self) -> int:
        """Bytes of the record with one extent."""
        meta, layout, _ = self.form
        return record_bytes(len(self.key), meta, layout, len(self.blocks), 1)

    def manifest(self) -> Manifest:
        """What its record says."""
        return Manifest(
            self.key, self.form.meta, self.sequence, self.created, self.checksum, self.form.layout,
            self.form.block_bytes, self.blocks, tuple(self.extents),
        )  # fmt: skip
