"""The plugin: what lms_tiers finds by entry point. Light imports only; the policy is imported on first use."""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers import PolicySpec, hookimpl


@hookimpl
def register_policies(register: Callable[[PolicySpec], None]) -> None:
    """The policy `keptorder`."""
    register(PolicySpec(name="keptorder", factory="lms_tiers_keptorder.policy:KeptorderPolicy", summary="An eviction policy"))
