"""The conformance kit against stores that nobody here wrote: ``python -m findings``. Not installed."""
