"""What stores count, for Prometheus and for people: a collector, a port that serves it, and a reader of such ports.

Needs `prometheus-client` (the extra ``metrics``).
"""
