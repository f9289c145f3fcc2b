"""Programs that write parts of the documentation; not installed."""
