"""Benchmark suites: train several configurations with several seeds and compare the results."""
