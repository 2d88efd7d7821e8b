"""Benchmarks: one command for each number that is stated."""
