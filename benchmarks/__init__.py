"""Speed and memory, each against a literal baseline timed in the same run: `make bench`."""
