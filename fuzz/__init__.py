"""Fuzz targets: the parsers (wire.py), whole sessions (session.py) and what they run in (memory.py)."""
