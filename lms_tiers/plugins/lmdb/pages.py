"""The pages of an LMDB 0.9 file, read without LMDB: every tree walked level by level, every page claimed once.

LMDB trusts its file and dies of a damaged one; this trusts nothing it has not compared. Whole levels are checked by
numpy at once. Runs in a child process (see `verify`), for the file is mapped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

NO_PAGE: Final = 2**64 - 1
_HEADER: Final = 16
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
BIG, SUB_TREE = 1, 2  # flags of a leaf's entry: its value has a run of its own, it is a table
_MAGIC: Final = 0xBEEFC0DE
_TREE: Final = struct.Struct("<IHHQQQQQ")
_META_HEAD: Final = struct.Struct("<IIQQ")
_META_TAIL: Final = struct.Struct("<QQ")
META_SIZE: Final = _META_HEAD.size + 2 * _TREE.size + _META_TAIL.size
_INTEGER_KEYS: Final = 0x08


class Fault(Exception):
    """The file is not sound; the text says where."""


class NotLmdb(Fault):
    """The file does not begin as an LMDB file does."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What the file says of one tree."""

    flags: int
    depth: int
    branches: int
    leaves: int
    overflow: int
    entries: int
    root: int
    page: int = 0

    @staticmethod
    def unpack(data: bytes, at: int = 0) -> Tree:
        """As in a meta page, or as the value of a named table."""
        pad, flags, depth, branches, leaves, overflow, entries, root = _TREE.unpack_from(data, at)
        return Tree(flags, depth, branches, leaves, overflow, entries, root, pad)


@dataclass(frozen=True, slots=True)
class Meta:
    """A meta page: one of the two last commits."""

    page: int
    free: Tree
    main: Tree
    last_page: int
    transaction: int


def read_meta(data: bytes) -> Meta:
    """The meta page in `data`.

    Raises
    ------
    NotLmdb
    """
    magic, version, _, _ = _META_HEAD.unpack_from(data, _HEADER)
    flags = struct.unpack_from("<H", data, 10)[0]
    if magic != _MAGIC or flags & _META == 0:
        raise NotLmdb("no LMDB meta page")
    if version != 1:
        raise NotLmdb(f"LMDB data version {version}, not 1")
    at = _HEADER + _META_HEAD.size
    free, main = Tree.unpack(data, at), Tree.unpack(data, at + _TREE.size)
    last, transaction = _META_TAIL.unpack_from(data, at + 2 * _TREE.size)
    return Meta(free.page, free, main, last, transaction)


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of a tree's leaves, in key order.

    Attributes
    ----------
    at : array
        Byte offset of each entry's key in the file.
    key_bytes, value_bytes : array
    flags : array
    runs, run_pages : array
        First page and length of each value that has pages of its own; indexed by `run_of`.
    run_of : array
        Entry number of each run.
    tree_pages : array
        Pages of the tree itself.
    """

    at: Ints
    key_bytes: Ints
    value_bytes: Ints
    flags: Ints
    runs: Ints
    run_pages: Ints
    run_of: Ints
    tree_pages: Ints

    @property
    def value_at(self) -> Ints:
        """Byte offset of each value; for values with runs, of the run's number."""
        return self.at + self.key_bytes


class PageFile:
    """A mapped LMDB file.

    Parameters
    ----------
    path : str

    Raises
    ------
    NotLmdb
    Fault
        The meta pages contradict each other or the file's size.
    """

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            head = file.read(65536)
        if len(head) < _HEADER + META_SIZE:
            raise NotLmdb("shorter than a meta page")
        first = read_meta(head)
        self.page: Final = first.page
        if self.page not in (4096, 8192, 16384, 32768):
            raise Fault(f"a page size of {self.page}")
        second = read_meta(head[self.page : 2 * self.page].ljust(_HEADER + META_SIZE, b"\0"))
        if first.page != second.page or first.transaction & 1 or not second.transaction & 1:
            if not (first.transaction == second.transaction == 0):
                raise Fault("meta pages out of place")
        elif abs(first.transaction - second.transaction) != 1:
            raise Fault("meta pages of commits that do not follow each other")
        self.meta: Final = max(first, second, key=lambda meta: meta.transaction)
        # A plain array over the mapping: its own class costs more than what is done with it.
        self.bytes: Final[npt.NDArray[np.uint8]] = np.asarray(np.memmap(path, np.uint8, "r"))
        self.pages: Final = len(self.bytes) // self.page
        whole = self.bytes[: self.pages * self.page]
        self._u16: Final = whole.view("<u2")
        self._u64: Final = whole.view("<u8")
        # A word begins at every byte of the file.
        self._words_at: Final = np.lib.stride_tricks.as_strided(
            self.bytes[:8].view("<u8"), shape=(len(self.bytes) - 7,), strides=(1,), writeable=False
        )

    def read(self, at: int, size: int) -> bytes:
        """Bytes of the file."""
        return self.bytes[at : at + size].tobytes()

    def words(self, at: Ints) -> npt.NDArray[np.uint64]:
        """The eight bytes at each of `at`, as little-endian numbers."""
        return self._words_at[at]

    def value(self, entries: Entries, number: int) -> bytes:
        """The value of an entry, wherever it lies."""
        size = int(entries.value_bytes[number])
        at = int(entries.value_at[number])
        if entries.flags[number] & BIG:
            at = int.from_bytes(self.read(at, 8), "little") * self.page + _HEADER
        return self.read(at, size)

    # -- trees -----------------------------------------------------------------------------------------------------

    def walk(self, tree: Tree, name: str, key_bytes: int = 0) -> Entries:
        """Check a whole tree and list its entries.

        Parameters
        ----------
        key_bytes : int
            What every key must have; keys are compared then, as unsigned bytes. 0 for any.

        Raises
        ------
        Fault
        """
        if tree.root == NO_PAGE:
            if tree.depth or tree.entries:
                raise Fault(f"{name}: a tree without a root has entries")
            none = np.zeros(0, np.int64)
            return Entries(none, none, none, none, none, none, none, none)
        level = np.array([tree.root if tree.root < 2**62 else 0], np.int64)
        bounds = np.full(1, -1, np.int64)  # where each page's lower separator stands; -1: none
        seen = [level]
        for _ in range(tree.depth - 1):
            owner, at, sizes, flags, keys = self._nodes(level, _BRANCH, name)
            children = sizes | flags.astype(np.int64) << 32
            first = np.flatnonzero(np.diff(owner, prepend=-1))
            # The first separator of a branch is open: what bounds the branch bounds its first child.
            lower = at.copy()
            lower[first] = bounds[owner[first]]
            odd = keys != key_bytes
            odd[first] = False
            if key_bytes and odd.any():
                raise Fault(f"{name}: a separator of another length")
            level, bounds = children, lower
            seen.append(level)
        if tree.depth < 1:
            raise Fault(f"{name}: a tree of depth {tree.depth}")
        owner, at, sizes, flags, keys = self._nodes(level, _LEAF, name)
        runs, run_pages, run_of = self._runs(at, sizes, flags, keys, name)
        tree_pages = np.concatenate(seen)
        branches = len(tree_pages) - len(level)
        told = (tree.branches, tree.leaves, tree.overflow, tree.entries)
        if told != (branches, len(level), int(run_pages.sum()), len(at)):
            raise Fault(f"{name}: has other counts than it tells")
        if key_bytes:
            self._check_order(at, keys, owner, bounds, key_bytes, name)
        return Entries(at, keys, sizes, flags, runs, run_pages, run_of, tree_pages)

    def _nodes(self, pages: Ints, kind: int, name: str) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """All entries of `pages`: owner (index), byte offset of the key, size word, flags, key length."""
        if len(pages) == 0 or pages.min() < 2 or pages.max() > min(self.meta.last_page, self.pages - 1):
            raise Fault(f"{name}: a page number out of the file")
        if len(distinct(np.sort(pages))) != len(pages):
            raise Fault(f"{name}: a page with two parents")
        u16, half = self._u16, self.page // 2
        base = pages * half
        if (self._u64[pages * (self.page // 8)] != pages.astype(np.uint64)).any():
            raise Fault(f"{name}: a page that carries another number")
        lower, upper = u16[base + 6].astype(np.int64), u16[base + 7].astype(np.int64)
        if (u16[base + 5] != kind).any():
            raise Fault(f"{name}: a page of another kind")
        if (lower < _HEADER + 2).any() or (lower & 1).any() or (lower > upper).any() or (upper > self.page).any():
            raise Fault(f"{name}: a page with impossible bounds")
        counts = (lower - _HEADER) >> 1
        owner = np.repeat(np.arange(len(pages)), counts)
        ends = np.cumsum(counts)
        slot = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        pointer = u16[np.repeat(base + _HEADER // 2, counts) + slot].astype(np.int64)
        if (pointer & 1).any() or (pointer < np.repeat(upper, counts)).any() or (pointer > self.page - 8).any():
            raise Fault(f"{name}: an entry out of its page")
        node = np.repeat(pages * self.page, counts) + pointer
        heads = self.words(node).view(np.int64)
        word, flags, keys = heads & 0xFFFFFFFF, heads >> 32 & 0xFFFF, heads >> 48 & 0xFFFF
        if kind == _LEAF:
            if (flags & ~(BIG | SUB_TREE)).any():
                raise Fault(f"{name}: an entry of an unknown kind")
            taken = 8 + keys + np.where(flags & BIG, 8, word)
        else:
            taken = 8 + keys
        self._check_packing(owner, pointer, taken, upper, name)
        return owner, node + 8, word, flags, keys

    def _check_packing(self, owner: Ints, pointer: Ints, taken: Ints, upper: Ints, name: str) -> None:
        """Entries fill their pages from `upper` to the end, without gaps or overlaps."""
        begin = owner * self.page + pointer
        order = np.argsort(begin, kind="stable")
        begin = begin[order]
        end = begin + ((taken[order] + 1) & ~1)
        page_of = owner[order]
        last = np.flatnonzero(np.diff(page_of, append=-1))
        following = np.append(begin[1:], 0)
        following[last] = (page_of[last] + 1) * self.page
        first = np.flatnonzero(np.diff(page_of, prepend=-1))
        if (end != following).any() or (begin[first] != page_of[first] * self.page + upper[page_of[first]]).any():
            raise Fault(f"{name}: entries that overlap or leave a gap")

    def _runs(self, at: Ints, sizes: Ints, flags: Ints, keys: Ints, name: str) -> tuple[Ints, Ints, Ints]:
        big = np.flatnonzero(flags & BIG)
        where = (at + keys)[big]
        runs = self.words(where).view(np.int64)
        lengths = (sizes[big] + _HEADER + self.page - 1) // self.page
        most = min(self.meta.last_page, self.pages - 1)
        if ((runs < 2) | (runs + lengths - 1 > most)).any():
            raise Fault(f"{name}: a value out of the file")
        return runs, lengths, big

    def check_run_heads(self, entries: Entries, name: str) -> None:
        """LMDB frees as many pages as a run's own header says."""
        for run, length in zip(entries.runs.tolist(), entries.run_pages.tolist(), strict=True):
            number, _, flags, pages = struct.unpack("<QHHI", self.read(run * self.page, _HEADER))
            if number != run or flags != _OVERFLOW or pages != length:
                raise Fault(f"{name}: a value whose pages carry another header")

    def _check_order(self, at: Ints, keys: Ints, owner: Ints, bounds: Ints, key_bytes: int, name: str) -> None:
        if (keys != key_bytes).any():
            raise Fault(f"{name}: a key of another length")
        words = self._words(at, key_bytes)
        if not _less([w[:-1] for w in words], [w[1:] for w in words]).all():
            raise Fault(f"{name}: keys out of order")
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        bound = np.flatnonzero(bounds >= 0)
        bound = bound[first[bound] > 0]
        if len(bound):
            low = self._words(bounds[bound], key_bytes)
            mine, before = [w[first[bound]] for w in words], [w[first[bound] - 1] for w in words]
            if _less(mine, low).any() or not _less(before, low).all():
                raise Fault(f"{name}: a separator that does not separate")

    def _words(self, at: Ints, key_bytes: int) -> list[npt.NDArray[np.uint64]]:
        """Keys as big-endian words, most significant first."""
        words = [self.words(at + begin).byteswap() for begin in range(0, key_bytes - 7, 8)]
        if rest := key_bytes % 8:
            # What lies behind the key may be the end of the file; before it there is something in any case.
            words.append(self.words(at + key_bytes - 8).byteswap() & np.uint64((1 << 8 * rest) - 1))
        return words

    # -- the whole file --------------------------------------------------------------------------------------------

    def free_pages(self, entries: Entries) -> Ints:
        """The pages on the list of free pages."""
        found: list[Ints] = []
        for number in range(len(entries.at)):
            key = int.from_bytes(self.read(int(entries.at[number]), 8), "little")
            if key > self.meta.transaction:
                raise Fault("free pages: freed by a commit that never was")
            value = self.value(entries, number)
            if len(value) < 8 or len(value) % 8:
                raise Fault("free pages: a list of a broken length")
            ids = np.frombuffer(value, "<u8").astype(np.int64)
            count = int(ids[0])
            if not 0 <= count < len(ids):
                raise Fault("free pages: a list that is longer than its record")
            listed = ids[1 : count + 1]
            if count and (listed.max() > self.meta.last_page or listed.min() < 2 or (np.diff(listed) >= 0).any()):
                raise Fault("free pages: numbers out of order")
            found.append(listed)
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def claim(self, singles: list[Ints], runs: list[tuple[Ints, Ints]]) -> None:
        """Every page up to the last belongs to exactly one owner.

        Raises
        ------
        Fault
        """
        begin = np.concatenate([np.arange(2), *singles, *(start for start, _ in runs)])
        length = np.concatenate([np.ones(2 + sum(map(len, singles)), np.int64), *(size for _, size in runs)])
        order = np.argsort(begin, kind="stable")
        begin, length = begin[order], length[order]
        end = begin + length
        if (begin[1:] < end[:-1]).any():
            raise Fault("a page with two owners")
        if int(length.sum()) != self.meta.last_page + 1:
            raise Fault("pages without an owner")


def distinct(ordered: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`ordered` numbers without repetitions."""
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _less(a: list[npt.NDArray[np.uint64]], b: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.bool_]:
    """Which keys of `a` are less than those of `b`, word by word."""
    less = a[-1] < b[-1]
    for left, right in zip(a[-2::-1], b[-2::-1], strict=True):
        less = (left < right) | ((left == right) & less)
    return less


def tables(file: PageFile) -> Iterator[tuple[bytes, Tree]]:
    """The named tables of a file; its main tree is checked on the way."""
    entries = file.walk(file.meta.main, "main")
    for number in range(len(entries.at)):
        name = file.read(int(entries.at[number]), int(entries.key_bytes[number]))
        value = file.value(entries, number)
        if not entries.flags[number] & SUB_TREE or len(value) != _TREE.size:
            continue
        yield name, Tree.unpack(value)
