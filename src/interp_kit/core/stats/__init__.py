"""Intervals, tests and rates over independent units."""
