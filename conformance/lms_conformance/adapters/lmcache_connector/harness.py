"""How a connector is made: a plugin's class, or a plugin that LMCache brings itself (``fs``)."""

from __future__ import annotations

import contextlib
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from lms_conformance.adapters.harness import AdapterHarness
from lms_conformance.adapters.lmcache_connector.drive import Drive
from lms_conformance.adapters.lmcache_connector.layouts import LAYOUTS, Layout
from lms_conformance.adapters.lmcache_connector.loop import Loop
from lms_conformance.violation import ConformanceError, Violation

#: What a plugin is called whose adapter does not say.
PLUGIN: Final = "conformance"
#: LMCache's memory beyond the chunks that a property has in hand.
_MEMORY: Final = 2**21


class ConnectorHarness(AdapterHarness):
    """Opens a connector as `RemoteBackend` does for a remote storage plugin.

    Options are the plugin's (``remote_storage_plugin.NAME.…`` of LMCache's extra config); one with a dot in its name
    stands there as it is. `url` in their place of ``plugin://NAME`` where the adapter goes by another scheme.
    """

    of = "lmcache-connector"

    def drive(
        self, path: Path, layout: str = "one", chunks: int = 32, failing: bool = False, stalling: bool = False, **_: Any
    ) -> Drive:
        """One connector of a worker, with memory for so many chunks."""
        return self.made(self.options_at(path, failing, stalling), LAYOUTS[layout], chunks)

    def made(self, options: dict[str, Any], layout: Layout, chunks: int) -> Drive:
        """The connector of these options."""
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.storage_backend.connector import CreateConnector

        from lms_conformance.adapters.lmcache_connector.memory import Memory

        url = options.pop("url", None)
        name = self.plugin
        extra = {one if "." in one else f"remote_storage_plugin.{name}.{one}": value for one, value in options.items()}
        if ":" in self.subject:
            module, _, cls = self.subject.partition(":")
            extra[f"remote_storage_plugin.{name}.module_path"] = module
            extra[f"remote_storage_plugin.{name}.class_name"] = cls
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=layout.tokens, local_cpu=False, extra_config=extra, remote_storage_plugins=[name]
        )
        metadata = layout.metadata()
        memory = Memory(config, metadata, _MEMORY + chunks * layout.nbytes(layout.tokens))
        loop = Loop()
        try:
            made = CreateConnector(
                url or f"plugin://{name}", loop.loop, memory, config, metadata, None if url else name
            )  # fmt: skip
        except BaseException:
            loop.end()
            raise
        return Drive(made, loop, memory, layout)

    @cached_property
    def plugin(self) -> str:
        """What the plugin is called: as its adapter's scheme has it."""
        if ":" not in self.subject:
            return self.subject
        from lmcache.v1.storage_backend.connector import ConnectorAdapter

        cls = self.class_of()
        scheme = str(cls().schema) if issubclass(cls, ConnectorAdapter) else ""
        kind, _, name = scheme.partition("://")
        return name if kind == "plugin" and name else PLUGIN

    def introduce(self) -> type[Any]:
        """The connector's class.

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
            with contextlib.suppress(Violation):  # a property's business, and told there
                drive.close()
        return type(drive.connection.getWrappedConnector())

    def features(self) -> frozenset[str]:
        """See `RULES`."""
        from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

        have = set(super().features())
        if self._class.remove_sync is not RemoteConnector.remove_sync:
            have.add("remove")
        return frozenset(have)


HARNESS: Final = ConnectorHarness
