"""Measurements: `make bench`, and the hot path in one process. docs/benchmarks.md says what they mean."""
