"""`make doors`: each engine's own tools and our tests against its real classes, in an environment made for it."""
