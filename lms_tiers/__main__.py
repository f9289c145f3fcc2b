"""``python -m lms_tiers`` is ``lms-tiers``."""

from lms_tiers.cli import main

main()
