"""Plugin discovery: built-ins and entry points, one at a time, each with a status; never the end of the host.

pluggy's own entry-point loader stops at the first plugin that fails to import and silently drops one of two plugins
of one name, so this module walks the entry points itself and uses pluggy for marking, validating and calling hooks.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import pluggy

from lms_tiers import hookspecs
from lms_tiers.device import STORE
from lms_tiers.errors import ConfigError, PluginConflictError, PluginError
from lms_tiers.hookspecs import PROJECT, BackendSpec, CodecSpec, PolicySpec
from lms_tiers.plugin_checks import check_hooks
from lms_tiers.secrets import declare
from lms_tiers.version import __version__

if TYPE_CHECKING:
    from lms_tiers.tiered.watch.events import TierEvent

_log = logging.getLogger(__name__)

#: Modules that register through the same hooks as a third party's, and are loaded first.
BUILTINS: Final[Mapping[str, str]] = {
    "cpu": "lms_tiers.plugins.cpu",
    "lmdb": "lms_tiers.plugins.lmdb",
    "pinned": "lms_tiers.plugins.pinned",
    "gpu": "lms_tiers.plugins.gpu",
    "lm": "lms_tiers.plugins.lm",
    "redis": "lms_tiers.plugins.redis",
    "s3": "lms_tiers.plugins.s3",
    "mooncake": "lms_tiers.plugins.mooncake",
    "faulty": "lms_tiers.plugins.faulty",
    "policies": "lms_tiers.policies",
    "codecs": "lms_tiers.codecs",
}
_BUILTIN_DISTRIBUTION: Final = "lms-tiers"
_SPEC_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")

Spec = TypeVar("Spec", BackendSpec, PolicySpec, CodecSpec)


@dataclass(slots=True)
class PluginStatus:
    """One plugin as `lms-tiers plugins` shows it.

    Attributes
    ----------
    name, distribution, version : str
        Entry-point name, and the distribution it came with.
    state : {"ok", "broken", "conflict", "disabled"}
    registers : dict of str to list of str
        Names by kind: backends, policies, codecs, observers.
    error, trace : str or None
        One line, and the traceback where there is one.
    """

    name: str
    distribution: str
    version: str
    state: str = "ok"
    registers: dict[str, list[str]] = field(default_factory=dict)
    error: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    status: PluginStatus
    load: Callable[[], Any]
    builtin: bool


class Names(Mapping[str, Spec], Generic[Spec]):
    """Specs of one kind by name; a contested name is an error when it is asked for, not before."""

    def __init__(self, kind: str) -> None:
        self.kind: Final = kind
        self._specs: dict[str, Spec] = {}
        self._owners: dict[str, _Source] = {}
        self._contested: dict[str, list[str]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._specs))

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __len__(self) -> int:
        return len(self._specs)

    def specs(self) -> list[Spec]:
        """Each usable spec once, by name."""
        return [spec for name, spec in sorted(self._specs.items()) if name == spec.name]

    def __getitem__(self, name: str) -> Spec:
        """The spec of `name`.

        Raises
        ------
        PluginConflictError
            Two distributions claim it.
        ConfigError
            Nobody does; lists the known names and the nearest.
        """
        if name in self._contested:
            raise PluginConflictError(name, self._contested[name])
        try:
            return self._specs[name]
        except KeyError:
            raise ConfigError(f"there is no {self.kind} {name!r}.", unknown=name, known=self._specs) from None

    def clash(self, source: _Source, name: str) -> PluginConflictError | None:
        """What stands against `source` taking `name`."""
        owner = self._owners.get(name)
        earlier: list[str] = self._contested.get(name, []) if owner is None else [_label(owner.status)]
        return PluginConflictError(name, [*earlier, _label(source.status)]) if earlier else None

    def add(self, source: _Source, name: str, spec: Spec) -> None:
        """Take `name`; of two outside claimants neither gets it, a built-in keeps its own."""
        clash = self.clash(source, name)
        if clash is None:
            self._specs[name] = spec
            self._owners[name] = source
            return
        source.status.state, source.status.error = "conflict", str(clash)
        owner = self._owners.get(name)
        if owner is not None and owner.builtin:
            return
        self._contested[name] = list(clash.claimants)
        if owner is not None:
            owner.status.state, owner.status.error = "conflict", str(clash)
            del self._specs[name], self._owners[name]


def _label(status: PluginStatus) -> str:
    return f"{status.distribution} {status.version} (plugin {status.name!r})"


class Registry:
    """Every plugin found, and what the usable ones registered.

    Parameters
    ----------
    environ : mapping, optional
        ``LMS_TIERS_PLUGINS`` (comma-separated allow-list of outside plugins), ``LMS_TIERS_DISABLE`` (deny-list, also
        of built-ins) and ``LMS_TIERS_STRICT=1`` (a broken plugin is an error) are read from it.
    entry_points : iterable of EntryPoint, optional
        Instead of the installed ones.

    Raises
    ------
    PluginError
        In strict mode, for the first plugin that is not usable.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self.backends: Final = Names[BackendSpec]("backend")
        self.policies: Final = Names[PolicySpec]("policy")
        self.codecs: Final = Names[CodecSpec]("codec")
        self.plugins: Final[list[PluginStatus]] = []
        self._observers: list[tuple[str, Any]] = []
        self._host = pluggy.PluginManager(PROJECT)
        self._host.add_hookspecs(hookspecs)
        self._load(_sources(entry_points, environ))
        if environ.get("LMS_TIERS_STRICT", "") not in ("", "0"):
            for status in self.plugins:
                if status.state in ("broken", "conflict"):
                    raise PluginError(status.name, status.error or status.state)

    def _load(self, sources: Sequence[_Source]) -> None:
        for source in sources:
            status = source.status
            self.plugins.append(status)
            if status.state != "ok":
                continue
            try:
                self._load_one(source)
            except (Exception, SystemExit) as error:
                status.state = "broken"
                status.error = f"{type(error).__name__}: {error}"
                status.trace = traceback.format_exc()
            if status.state != "ok":
                _log.warning("plugin %s is %s: %s", _label(status), status.state, status.error)

    def _load_one(self, source: _Source) -> None:
        status = source.status
        plugin = source.load()
        check_hooks(self._host, plugin, status.name)
        self._host.register(plugin, name=f"{status.distribution}:{status.name}")
        try:
            # Collect everything before taking anything: a plugin that raises half-way has registered nothing.
            backends = self._collect(plugin, "register_backends", BackendSpec, status.name)
            policies = self._collect(plugin, "register_policies", PolicySpec, status.name)
            codecs = self._collect(plugin, "register_codecs", CodecSpec, status.name)
        except BaseException:
            self._host.unregister(plugin)
            raise
        for backend in backends:
            for name in (backend.name, *backend.aliases):
                self.backends.add(source, name, backend)
        for policy in policies:
            self.policies.add(source, policy.name, policy)
        for codec in codecs:
            self.codecs.add(source, codec.name, codec)
        registered = {
            "backends": [spec.name for spec in backends],
            "policies": [spec.name for spec in policies],
            "codecs": [spec.name for spec in codecs],
        }
        status.registers = {kind: names for kind, names in registered.items() if names}
        callers: list[pluggy.HookCaller] = self._host.get_hookcallers(plugin) or []
        if any(caller.name == "tier_events" for caller in callers):
            self._observers.append((status.name, plugin))
            status.registers["observers"] = ["tier_events"]

    def _only(self, plugin: Any, hook: str) -> Callable[..., Any]:
        plugins: set[Any] = self._host.get_plugins()
        others = [other for other in plugins if other is not plugin]
        return self._host.subset_hook_caller(hook, others)

    def _collect(self, plugin: Any, hook: str, kind: type[Spec], name: str) -> list[Spec]:
        found: list[Spec] = []

        def register(spec: Spec) -> None:
            if not isinstance(spec, kind):
                raise PluginError(name, f"{hook} registered {spec!r}: it takes a {kind.__name__}.")
            aliases: tuple[str, ...] = getattr(spec, "aliases", ())
            for text in (spec.name, *aliases):
                if not _SPEC_NAME.fullmatch(text):
                    raise PluginError(name, f"{text!r} is not a name: use lower-case letters, digits, - and _.")
                if hook == "register_backends" and text == STORE:
                    raise PluginError(name, f"no backend can be called {text!r}: device texts mean the whole by it.")
            found.append(spec)

        self._only(plugin, hook)(register=register)
        return found

    def emit(self, events: Sequence[TierEvent]) -> None:
        """Hand a batch of events to every observer; one that raises is logged and does not stop the others."""
        for name, plugin in list(self._observers):
            try:
                self._only(plugin, "tier_events")(events=events)
            except Exception:
                _log.exception("plugin %s failed in tier_events", name)

    @property
    def observed(self) -> bool:
        """Whether anybody listens to events."""
        return bool(self._observers)


def _sources(entry_points: Iterable[importlib.metadata.EntryPoint] | None, environ: Mapping[str, str]) -> list[_Source]:
    allow = _names(environ.get("LMS_TIERS_PLUGINS"))
    deny = _names(environ.get("LMS_TIERS_DISABLE")) or set()
    sources = []
    for name, module in BUILTINS.items():
        status = PluginStatus(name, _BUILTIN_DISTRIBUTION, __version__)
        sources.append(_Source(status, lambda module=module: importlib.import_module(module), builtin=True))  # type: ignore[misc]
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=PROJECT)
    outside = sorted(entry_points, key=lambda e: (_canonical(e.name), _distribution(e)))
    for entry_point in outside:
        version = entry_point.dist.version if entry_point.dist else "?"
        sources.append(
            _Source(
                PluginStatus(entry_point.name, _distribution(entry_point), version), entry_point.load, builtin=False
            )
        )
    by_name: dict[str, list[_Source]] = {}
    for source in sources:
        name = _canonical(source.status.name)
        if name in deny or (not source.builtin and allow is not None and name not in allow):
            source.status.state = "disabled"
        else:
            by_name.setdefault(name, []).append(source)
    for claimants in by_name.values():
        if len(claimants) > 1:
            error = PluginConflictError(claimants[0].status.name, [_label(s.status) for s in claimants])
            for source in claimants:
                if not source.builtin:
                    source.status.state, source.status.error = "conflict", str(error)
                    _log.warning("%s", error)
    return sources


def _distribution(entry_point: importlib.metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else "?"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(text: str | None) -> set[str] | None:
    if text is None:
        return None
    return {_canonical(name.strip()) for name in text.split(",") if name.strip()}


def load_attribute(target: Any) -> Any:
    """What a spec names: a ``"module:attr"`` text is imported now, anything else is itself."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def to_install(spec: BackendSpec) -> str:
    """The command that installs what the backend lacks; empty where it lacks nothing."""
    lacking = any(importlib.util.find_spec(package) is None for package in spec.imports)
    return f'pip install "{spec.extra}"' if lacking else ""


_default: Registry | None = None
_default_lock = threading.Lock()


def default_registry() -> Registry:
    """The registry of this process's environment, made on first use."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Registry()
        return _default


def know_secrets(device: str) -> None:
    """Let the models of the backends in `device` say which of their options are secrets, before it is printed."""
    from lms_tiers.options import secret_options

    for tier in device.split(">"):
        name = tier.strip().partition("?")[0].partition(":")[0].strip()
        # What cannot be loaded is told where it is opened.
        with contextlib.suppress(Exception):
            declare(secret_options(load_attribute(default_registry().backends[name].options)))
