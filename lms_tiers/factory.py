"""`CreateStorageBackend`: from a device text to one backend, bare or tiered. Knows no concrete backend or policy."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lms_tiers.codecs.catalog import Catalog, offering
from lms_tiers.deferred import Deferred
from lms_tiers.device import DeviceSpec, TierSpec, parse_device
from lms_tiers.errors import ConfigError, LmsTiersError, PluginError, StorageUnavailableError
from lms_tiers.interface import CONTRACT_VERSION, LMSBackendInterface
from lms_tiers.policies.base import EvictionPolicy
from lms_tiers.registry import Registry, default_registry, load_attribute, to_install
from lms_tiers.secrets import TIER_OPTIONS, passwords, scrub

if TYPE_CHECKING:
    from lms_tiers.tiered.state.tier import TierConfig
    from lms_tiers.tiered.watch.events import TierEvent

_log = logging.getLogger(__name__)

DEFAULT_POLICY = "lru"


Observer = Callable[[Sequence["TierEvent"]], None]


def CreateStorageBackend(device: str, *, on_events: Observer | None = None) -> LMSBackendInterface:
    """Open the storage that a device text describes.

    One tier with neither ``capacity`` nor ``policy``, ``write`` or ``promote`` is the bare backend: ``"cpu"`` is an
    `LMSLocalBackend`. Everything else, ``"store > cpu"`` too, is a `TieredStore` over the tiers, fastest first.

    Parameters
    ----------
    device : str
        For example ``"cpu?capacity=4GiB > lmdb:/data/kv?capacity=50GiB"``, or the path of a ``.toml`` file. Options
        of the store may stand first: ``"store?read_deadline=500ms > cpu?capacity=4GiB > ..."``.
    on_events : callable, optional
        Gets batches of `TierEvent` from one thread, off the data path, beside plugins that observe. It is a store that
        has events: where it is given, one tier is never the bare backend.

    Raises
    ------
    ConfigError
        Unknown backend, policy or option; a tier in the middle without a capacity; a backend no tier can use.
    StorageUnavailableError, StorageLockedError, FormatError
        A tier's place cannot be used; the tiers opened before it are closed again.
    PluginError
        A plugin's factory failed.
    """
    return open_device(parse_device(device), on_events=on_events)


def open_device(
    device: DeviceSpec, registry: Registry | None = None, on_events: Observer | None = None
) -> LMSBackendInterface:
    """Open a parsed device; see `CreateStorageBackend`."""
    registry = registry or default_registry()
    if device.bare and on_events is None:
        return open_backend(device.tiers[0], registry)
    for spec in device.tiers[:-1]:
        if spec.deadline is not None or spec.revalidate is not None:
            raise ConfigError(f"tier {spec.name!r}: deadline and revalidate are for a tier that is shared, the lowest.")
        if spec.capacity is None:
            raise ConfigError(f"tier {spec.name!r} has a tier below it and no capacity: add ?capacity=SIZE to it.")
    # Look every name up before anything is opened: a typing error leaves no files behind.
    for spec in device.tiers:
        registry.backends[spec.name]
        policy_spec = registry.policies[spec.policy or DEFAULT_POLICY]
        if policy_spec.simulation_only:
            raise ConfigError(f"policy {policy_spec.name!r} needs to know the future: it is for `lms-tiers simulate`.")

    from lms_tiers.options import StoreOptions
    from lms_tiers.tiered.store import TieredStore

    options = StoreOptions.parse(device.store or {})
    with ExitStack() as opened:
        tiers: list[TierConfig] = []
        for spec in device.tiers:
            backend = opened.enter_context(_open_tier(spec, registry, bool(tiers)))
            if not backend.capabilities.remove:
                raise ConfigError(f"backend {spec.name!r} cannot remove, so it cannot be a tier: use it alone.")
            tiers.append(_tier(spec, _unique(spec.name, tiers), backend, registry))
        store = TieredStore(tiers, on_events=_observer(on_events, registry), **dict(options))
        opened.pop_all()
    _log.info("opened %s", device)
    return store


def _open_tier(spec: TierSpec, registry: Registry, below: bool) -> LMSBackendInterface:
    """Open a tier's backend; one that is shared, `below` others, is opened later where its engine is not there now."""
    try:
        return open_backend(spec, registry)
    except StorageUnavailableError as error:
        if not below or registry.backends[spec.name].medium != "shared":
            raise
        _log.warning("tier %r is opened when it can be reached: %s", spec.name, error)
        return Deferred(spec.name, lambda: open_backend(spec, registry))


def _tier(spec: TierSpec, name: str, backend: LMSBackendInterface, registry: Registry) -> TierConfig:
    from lms_tiers.tiered.state.tier import DEADLINE, TierConfig

    if not backend.capabilities.shared:
        if spec.deadline is not None or spec.revalidate is not None:
            raise ConfigError(f"tier {spec.name!r} is not shared with others: it has no deadline and no revalidate.")
        return TierConfig(name, backend, spec.capacity, make_policy(spec, registry), spec.write, spec.promote)
    policy = None if spec.policy is None else make_policy(spec, registry)
    return TierConfig(
        name, backend, spec.capacity, policy, spec.write, spec.promote,
        DEADLINE if spec.deadline is None else spec.deadline, spec.revalidate,
    )  # fmt: skip


def _observer(own: Observer | None, registry: Registry) -> Observer | None:
    """Who gets events: the caller's observer, and the plugins'; neither sees the other fail."""
    if own is None or not registry.observed:
        return own or (registry.emit if registry.observed else None)

    def both(events: Sequence[TierEvent]) -> None:
        try:
            own(events)
        finally:
            registry.emit(events)

    return both


def _unique(name: str, tiers: Sequence[TierConfig]) -> str:
    same = sum(t.name == name or t.name.startswith(f"{name}#") for t in tiers)
    return f"{name}#{same + 1}" if same else name


def make_policy(spec: TierSpec, registry: Registry) -> EvictionPolicy:
    """The eviction policy of a tier."""
    name = spec.policy or DEFAULT_POLICY
    factory = load_attribute(registry.policies[name].factory)
    policy = factory(spec.capacity or sys.maxsize, time.monotonic)
    if not isinstance(policy, EvictionPolicy):
        raise PluginError(name, f"its factory returned {type(policy).__name__}, not an EvictionPolicy.")
    return policy


def _tells(error: Exception, secrets: Sequence[str]) -> bool:
    """Whether a plugin's error gives a secret away; it, and all it came from, must not be printed then."""
    return any(secret and secret in f"{error} {error.__cause__} {error.__context__}" for secret in secrets)


def open_backend(spec: TierSpec, registry: Registry | None = None) -> LMSBackendInterface:
    """Open one tier's backend, bare.

    Raises
    ------
    ConfigError, PluginError, StorageUnavailableError, StorageLockedError, FormatError
    """
    registry = registry or default_registry()
    backend_spec = registry.backends[spec.name]
    if lacking := to_install(backend_spec):
        raise PluginError(spec.name, f"lacks {' and '.join(backend_spec.imports)}: {lacking}.")
    try:
        model = load_attribute(backend_spec.options)
        factory = load_attribute(backend_spec.factory)
    except Exception as error:
        raise PluginError(spec.name, f"cannot be imported: {type(error).__name__}: {error}.") from error
    if model is None:
        for option in spec.options:
            raise ConfigError(f"backend {spec.name!r} has no option {option!r}.", unknown=option, known=TIER_OPTIONS)
        options, secrets = None, passwords(spec.location)
    else:
        from lms_tiers.options import parse_options, secret_values

        options = parse_options(model, spec.name, spec.options)
        secrets = [*secret_values(options), *passwords(spec.location)]
    try:
        with offering(Catalog(registry.codecs)):
            backend = factory(spec.location, spec.capacity, options)
    except LmsTiersError as error:
        if not _tells(error, secrets):
            raise
        raise error.reworded(lambda text: scrub(text, secrets)) from None
    except Exception as error:
        told = f"failed to open: {type(error).__name__}: {scrub(str(error), secrets)}."
        raise PluginError(spec.name, told) from (None if _tells(error, secrets) else error)
    if not isinstance(backend, LMSBackendInterface):
        raise PluginError(spec.name, f"its factory returned {type(backend).__name__}, not an LMSBackendInterface.")
    contract = backend.capabilities.contract
    if contract.split(".")[0] != CONTRACT_VERSION.split(".")[0]:
        backend.close()
        raise PluginError(
            spec.name, f"was written for contract {contract}, this is {CONTRACT_VERSION}: install a matching version."
        )
    return backend
