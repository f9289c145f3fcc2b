"""What begins and ends: starting over chunks that are there, flushing, recounting after an interrupt, closing."""
