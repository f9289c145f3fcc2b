"""The whole conformance suite, in two lines."""

from lms_conformance import NameHarness, conformance_suite

TestFiles = conformance_suite(NameHarness("files"), profile="quick")
