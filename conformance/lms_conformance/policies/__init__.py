"""The policy family of the kit: what every eviction policy must keep, importable without the rest of the kit."""

from __future__ import annotations

from lms_conformance.policies.checks import CHECKS
from lms_conformance.policies.drive import PolicyMaker, PolicyViolation
from lms_conformance.policies.run import Outcome, check_policy

__all__ = ["CHECKS", "Outcome", "PolicyMaker", "PolicyViolation", "check_policy"]
