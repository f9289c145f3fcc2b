"""A client of engines that speak RESP (Redis, Valkey): one server or a Cluster. It knows nothing of chunks."""
