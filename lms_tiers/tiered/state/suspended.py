"""What stands in for a policy that raised, until victims are asked for and LRU takes over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lms_tiers.errors import PolicyError
from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason


class SuspendedPolicy(EvictionPolicy):
    """Takes every call but `victims`, whose error makes the tier fall back to a consistent state."""

    def __init__(self, failed: EvictionPolicy, error: Exception) -> None:
        super().__init__(failed.capacity, failed.clock)
        self.name = failed.name  # type: ignore[misc]  # the culprit's
        self._error = error

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        pass

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        pass

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        pass

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        pass

    def victims(self, bytes_needed: int, protected: Any) -> Iterator[str]:  # noqa: D102
        error = self._error
        raise PolicyError(self.name, f"raised {type(error).__name__}: {error}.") from error

    def __len__(self) -> int:
        return 0
