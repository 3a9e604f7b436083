"""Measure what recording costs an agent, and what reading the records costs; ``python -m benchmarks --help``."""
