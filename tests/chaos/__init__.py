"""Faults at random, and the count of what they cost: `python -m tests.chaos`."""
