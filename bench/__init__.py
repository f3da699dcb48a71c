"""Benchmarks: each prints JSON, runs the system as users have it, and can be run again by anyone."""
