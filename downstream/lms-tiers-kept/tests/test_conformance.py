"""The conformance suite, quickly; ci.sh runs it in full."""

from lms_conformance import NameHarness, conformance_suite

TestKept = conformance_suite(NameHarness("kept"), profile="quick")
