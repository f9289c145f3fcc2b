"""How an L2 adapter is made: a plugin's class, or a type that LMCache's factory knows (``fs``)."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from lms_conformance.adapters.harness import AdapterHarness
from lms_conformance.adapters.lmcache_l2.drive import Drive
from lms_conformance.violation import ConformanceError


class L2Harness(AdapterHarness):
    """Opens an adapter as the storage manager does; `failing` options may name another ``type``."""

    of = "lmcache-l2"

    def drive(self, path: Path, failing: bool = False, **how: Any) -> Drive:
        """One adapter."""
        return Drive(self.made(self.options_at(path, failing)))

    def made(self, options: dict[str, Any]) -> Any:
        """The adapter of these options."""
        from lmcache.v1.distributed.l2_adapters.config import get_l2_adapter_config_class
        from lmcache.v1.distributed.l2_adapters.factory import create_l2_adapter_from_registry

        if ":" in self.subject and "type" not in options:
            module, _, name = self.subject.partition(":")
            options = {"type": "plugin", "module_path": module, "class_name": name, "adapter_params": options}
        kind = str(options.get("type", self.subject))
        config = get_l2_adapter_config_class(kind).from_dict({"type": kind, **options})
        adapter = create_l2_adapter_from_registry(config, None)
        adapter.set_backend_identity(kind)
        return adapter

    def introduce(self) -> type[Any]:
        """Its class.

        Raises
        ------
        ConformanceError
            It cannot be opened.
        """
        return self._class

    @cached_property
    def _class(self) -> type[Any]:
        with tempfile.TemporaryDirectory(prefix="lms-conformance-") as tmp:
            try:
                drive = self.drive(Path(tmp))
            except Exception as error:  # what it raises is its own business, and told
                raise ConformanceError(f"{self.name} cannot be opened: {type(error).__name__}: {error}") from error
            drive.close()
        return type(drive.adapter)

    def features(self) -> frozenset[str]:
        """See `RULES`."""
        from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface

        have = set(super().features())
        for feature, name in (("delete", "delete"), ("list", "list_l2_keys")):
            own = getattr(self._class, name, None)
            if own is not None and own is not getattr(L2AdapterInterface, name, None):
                have.add(feature)
        return frozenset(have)


HARNESS: Final = L2Harness
