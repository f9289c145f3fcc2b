"""What ``pytest --pyargs lms_conformance --lms-device DEVICE`` collects: the suite of that device.

The placeholder is replaced by `pytest_door` at collection, when the command line is known.
"""

TestConformance = None
