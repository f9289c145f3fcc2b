"""Pages of a host pool as bytes, in the order of the engine's own flat pages: where they lie, or by way of a copy.

A pool gives addresses. They are used where they are few or large, lie inside the pool's own memory, and in the flat
order; each is cut out of that memory, so that none can reach beyond it. Nothing here knows stores.
"""

from __future__ import annotations

from typing import Any, Final

#: Buffers of a page that are fewer, or larger, are used where they lie; many small ones cost more than a copy.
_FEW: Final = 4
_LARGE: Final = 64 << 10


class Pages:
    """The pages of one pool.

    Parameters
    ----------
    pool : HostKVCache
        Kept alive by this.

    Attributes
    ----------
    page_size : int
        Of the pool's indices, so many are a page.
    nbytes : int
        Bytes of a page.
    straight : bool
        Whether pages are used where they lie.
    """

    def __init__(self, pool: Any) -> None:
        self._pool: Final = pool
        self.page_size: Final = int(getattr(pool, "page_size", 1) or 1)
        unified = getattr(pool, "page_unified_layout", None)
        self._unified: Final = None if unified is None else int(unified.bytes_per_page)
        if self._unified is not None:
            self.nbytes = self._unified
            self._memory = _whole(pool.kv_buffer)
            self._start = pool.kv_buffer.data_ptr() - self._memory[0]
        else:
            flat = pool.get_dummy_flat_data_page()
            self._like = flat.numel(), flat.dtype
            self.nbytes = flat.numel() * flat.element_size()
            self._memory = _memory_of(pool)
        self.straight: Final = self._unified is not None or self._lies_flat()

    def first(self, indices: Any) -> list[int]:
        """The first index of each page, of the indices of whole pages."""
        return [int(index) for index in indices[:: self.page_size].tolist()]

    def fits(self, indices: Any, count: int) -> bool:
        """Whether `indices` are those of `count` pages."""
        return indices is not None and int(indices.numel()) == count * self.page_size

    def spans(self, indices: Any) -> list[list[memoryview]]:
        """The buffers of each page where it lies, of a pool that is `straight`.

        Raises
        ------
        ValueError
            A page is not inside the pool.
        """
        if self._unified is not None:
            starts = [self._start + index // self.page_size * self.nbytes for index in self.first(indices)]
            return [[self._cut(start, self.nbytes)] for start in starts]
        addresses, sizes = self._pool.get_page_buffer_meta(indices)
        base, pages = self._memory[0], len(indices) // self.page_size
        each = len(addresses) // pages
        found = []
        for at in range(0, len(addresses), each):
            page = [self._cut(addresses[i] - base, sizes[i]) for i in range(at, at + each)]
            if sum(map(len, page)) != self.nbytes:
                raise ValueError(f"a page of {type(self._pool).__name__} is not {self.nbytes} bytes long")
            found.append(page)
        return found

    def _cut(self, start: int, size: int) -> memoryview:
        view = self._memory[1][start : start + size] if start >= 0 else memoryview(b"")
        if len(view) != size:
            raise ValueError(f"a page of {type(self._pool).__name__} lies outside its memory")
        return view

    def copy_out(self, index: int, scratch: tuple[Any, memoryview] | None = None) -> memoryview:
        """A copy of the page that begins at `index`, in `scratch` where it can be made there without another."""
        if scratch is not None:
            page, view = scratch
            lies = self._pool.get_data_page(index, flat=False)
            if lies.dtype == page.dtype and lies.numel() == page.numel():
                page.view(lies.shape).copy_(lies)
                return view
        return bytes_of(self._pool.get_data_page(index, flat=True))

    def scratch(self) -> tuple[Any, memoryview]:
        """Memory for one page, as the pool's tensor and as bytes."""
        import torch

        numel, dtype = self._like
        page = torch.empty(numel, dtype=dtype)
        return page, bytes_of(page)

    def copy_in(self, index: int, page: Any) -> None:
        """Copy a page of `scratch` to where the one that begins at `index` lies."""
        self._pool.set_from_flat_data_page(index, page)

    def _lies_flat(self) -> bool:
        """Whether the buffers of a page, one after another, are what its flat copy is, and worth using."""
        import torch

        pool = self._pool
        if getattr(pool, "shared_allocation_domain", None) is not None:
            return False  # pages move under their indices
        try:
            addresses, sizes = pool.get_page_buffer_meta(torch.arange(self.page_size, dtype=torch.int64))
            lies = _runs(pool.get_data_page(0, flat=False))
        except (NotImplementedError, ValueError, TypeError, AttributeError, AssertionError):
            return False
        if not addresses or sum(sizes) != self.nbytes or (len(addresses) > _FEW and min(sizes) < _LARGE):
            return False
        return bool(self._memory[1]) and _joined(zip(addresses, sizes, strict=True)) == _joined(lies)


def bytes_of(tensor: Any) -> memoryview:
    """The bytes of a tensor in memory of the host, in C order; a copy where they do not lie so."""
    import torch

    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def _memory_of(pool: Any) -> tuple[int, memoryview]:
    """The memory that a pool's pages lie in: its address and its bytes."""
    try:
        return _whole(pool.get_data_page(0, flat=False))
    except (NotImplementedError, ValueError, AttributeError):
        return 0, memoryview(b"")


def _whole(tensor: Any) -> tuple[int, memoryview]:
    """All of the memory that a tensor is a view of; the view keeps it alive."""
    import torch

    storage = tensor.untyped_storage()
    if tensor.device.type != "cpu" or not storage.nbytes():
        return 0, memoryview(b"")
    whole: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return storage.data_ptr(), memoryview(whole)


def _runs(tensor: Any) -> list[tuple[int, int]]:
    """Address and bytes of the runs of memory that a tensor's elements lie in, in C order."""
    sizes, strides, item = list(tensor.shape), list(tensor.stride()), tensor.element_size()
    run = 1
    while sizes and (strides[-1] == run or sizes[-1] == 1):
        run *= sizes.pop()
        strides.pop()
    starts = [0]
    for size, stride in zip(sizes, strides, strict=True):
        starts = [start + i * stride for start in starts for i in range(size)]
    base = tensor.data_ptr()
    return [(base + start * item, run * item) for start in starts]


def _joined(runs: Any) -> list[tuple[int, int]]:
    """The same with neighbours as one."""
    joined: list[tuple[int, int]] = []
    for at, size in runs:
        if joined and sum(joined[-1]) == at:
            joined[-1] = joined[-1][0], joined[-1][1] + size
        else:
            joined.append((at, size))
    return joined
