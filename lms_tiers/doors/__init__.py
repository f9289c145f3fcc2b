"""Doors: how engines attach the store, one folder an engine. Nothing is imported before its use."""
