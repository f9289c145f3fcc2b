"""The ways of a chunk: read, write, move, make room. Backends are called here and in life/, never under the lock."""
