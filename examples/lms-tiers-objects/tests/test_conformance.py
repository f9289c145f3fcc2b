"""The whole conformance suite, in two lines."""

from lms_conformance import NameHarness, conformance_suite

TestObjects = conformance_suite(NameHarness("objects"), profile="quick")
