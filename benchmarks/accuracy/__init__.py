"""How many bad parts are found, over all real sets at once: `python -m benchmarks.accuracy`."""
