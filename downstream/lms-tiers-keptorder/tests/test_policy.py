"""The policy family of the conformance kit."""

from lms_conformance.policies import check_policy


def test_lms_tiers_keptorder_keeps_the_contract_of_policies() -> None:
    check_policy("keptorder")
