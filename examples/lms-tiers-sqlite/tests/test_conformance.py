"""The whole conformance suite, in two lines."""

from lms_conformance import NameHarness, conformance_suite

TestSqlite = conformance_suite(NameHarness("sqlite"), profile="quick")
