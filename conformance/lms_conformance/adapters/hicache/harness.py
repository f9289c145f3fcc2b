"""How a storage backend of HiCache is made, and which pools, layouts and ways it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch

from lms_conformance.adapters.harness import AdapterHarness
from lms_conformance.adapters.hicache import pools
from lms_conformance.adapters.hicache.drive import WAYS, Drive
from lms_conformance.violation import ConformanceError

PAGE: Final = 4
PAGES: Final = 16


class HiCacheHarness(AdapterHarness):
    """Opens a class as ``dynamic`` does, or a backend that SGLang's factory knows by name (``file``)."""

    of = "hicache"

    def pool(
        self, layout: str, dtype: torch.dtype, layers: int, page_size: int, pages: int, width: int, latent: bool
    ) -> Any:
        """A host pool."""
        return (pools.mla if latent else pools.mha)(layout, dtype, layers, page_size, pages, width)

    def drive(
        self, path: Path, way: str | None = None, layout: str | None = None, dtype: str = "bfloat16", layers: int = 3,
        page_size: int = PAGE, width: int = 8, latent: bool = False, failing: bool = False, **changes: Any,
    ) -> Drive:  # fmt: skip
        """A backend over a pool; `changes` are of SGLang's configuration of the rank."""
        way = way or self.ways[0]
        layout = layout or self.layouts[0]
        pages = PAGES * PAGE // page_size
        pool = self.pool(layout, getattr(torch, dtype), layers, page_size, pages, width, latent)
        return Drive(self.made(path, pool, way, failing, is_mla_model=latent, **changes), pool, way, pages)

    def made(self, path: Path, pool: Any, way: str, failing: bool, **changes: Any) -> Any:
        """The backend, with its pool registered."""
        from sglang.srt.mem_cache.hicache_storage import PoolName

        options = self.options_at(path, failing)
        if ":" in self.subject:
            module, _, name = self.subject.partition(":")
            extra = {"backend_name": name, "module_path": module, "class_name": name, **options}
            backend = self.class_of()(pools.config({**extra, "interface_v1": int(way == "v1")}, **changes), {})
        else:
            from sglang.srt.mem_cache.storage import StorageBackendFactory

            config = pools.config(options, **changes)
            with pools.files_at(options):
                backend = StorageBackendFactory.create_backend(self.subject, config, pool)
        backend.register_mem_pool_host(pool)
        if way == "v2":
            backend.register_mem_host_pool_v2(pool, PoolName.KV)
        pools.all_registered(backend)
        return backend

    def introduce(self) -> type[Any]:
        """Its class; the layouts that it takes are known from here on.

        Raises
        ------
        ConformanceError
            It takes none.
        """
        if not self.layouts:
            raise ConformanceError(f"{self.name} cannot be opened: {self._refusal}")
        return self._class

    @cached_property
    def _class(self) -> type[Any]:
        if ":" in self.subject:
            return self.class_of()
        from sglang.srt.mem_cache.storage import StorageBackendFactory

        found: type[Any] = StorageBackendFactory._registry[self.subject]["loader"]()
        return found

    def _overrides(self, *names: str) -> bool:
        from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

        return all(getattr(self._class, n, None) is not getattr(HiCacheStorage, n, None) for n in names)

    @cached_property
    def ways(self) -> Sequence[str]:
        """The ways that it has."""
        has = {
            "v1": self._overrides("batch_get_v1", "batch_set_v1"), "flat": True,
            "v2": self._overrides("batch_get_v2", "batch_set_v2", "batch_exists_v2"),
        }  # fmt: skip
        return [way for way in WAYS if has[way]]

    _refusal = ""

    @cached_property
    def layouts(self) -> Sequence[str]:
        """The layouts that it takes: some backends refuse pools that lie otherwise."""
        taken = []
        for layout in pools.LAYOUTS:
            with tempfile.TemporaryDirectory(prefix="lms-conformance-") as tmp:
                try:
                    self.drive(Path(tmp), layout=layout).close()
                except Exception as error:  # what it raises is its own business, and told
                    self._refusal = f"{type(error).__name__}: {error}"
                else:
                    taken.append(layout)
        return taken

    def features(self) -> frozenset[str]:
        """See `RULES`."""
        have = set(super().features())
        have |= {"v2"} & set(self.ways)
        if hasattr(self._class, "close"):
            have.add("close")
        if self._overrides("clear"):
            have.add("clear")
        try:
            from sglang.srt.mem_cache.hicache_storage import HiCacheFile  # noqa: F401
        except ImportError:
            pass
        else:
            have.add("oracle")
        return frozenset(have)


HARNESS: Final = HiCacheHarness
