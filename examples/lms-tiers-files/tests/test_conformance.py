"""The whole conformance suite, in two lines."""

from lms_conformance import Harness, conformance_suite

TestFiles = conformance_suite(Harness.for_device("files"))
