"""The parts of `python -m benchmarks.templates`."""
