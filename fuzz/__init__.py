"""Fuzz targets; see wire.py."""
