"""Faults: each does one thing to a cluster and records proof that it happened."""
