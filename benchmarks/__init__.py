"""Speed and memory, each against a literal baseline timed in the same run: `make bench`."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it, before torch is loaded
