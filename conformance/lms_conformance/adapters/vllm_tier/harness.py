"""How a secondary tier is made: a class by ``module_path``, or a type that vLLM's factory knows (``fs``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from lms_conformance.adapters.harness import AdapterHarness
from lms_conformance.adapters.vllm_tier.drive import ROW, SLOTS, Drive, Primary, spec


class TierHarness(AdapterHarness):
    """Opens a class as vLLM's factory does by ``module_path``, or a type that the factory knows."""

    of = "vllm-tier"

    def drive(self, path: Path, row: int = ROW, slots: int = SLOTS, failing: bool = False, **changes: Any) -> Drive:
        """A tier below a primary tier of its own; `changes` are of what vLLM tells of its run."""
        primary = Primary(row, slots)
        try:
            tier = self.made(self.options_at(path, failing), primary.view, spec(**changes))
        except BaseException:
            primary.close()
            raise
        return Drive(tier, primary, row, slots)

    def made(self, options: dict[str, Any], view: memoryview, run: Any) -> Any:
        """The tier of these options."""
        if ":" in self.subject:
            # As the factory makes it, without its warning, which imports most of vLLM.
            given: dict[str, Any] = {"offloading_spec": run, "primary_kv_view": view, "backpressure_detector": None}
            return self.class_of()(**given, tier_type=self.subject.rpartition(":")[2], **options)
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

        return SecondaryTierFactory.create_secondary_tier({"type": self.subject, **options}, view, run)

    def introduce(self) -> type[Any]:
        """Its class."""
        if ":" in self.subject:
            return self.class_of()
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

        found: type[Any] = SecondaryTierFactory.get_tier_class({"type": self.subject})
        return found


HARNESS: Final = TierHarness
