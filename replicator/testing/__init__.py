"""Whole clusters in one process, on virtual time and a log with faults: one seed, one history."""
