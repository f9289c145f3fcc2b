"""A library held in a process of its own, so that nothing it does can hang or end this one."""
