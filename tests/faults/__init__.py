"""Faults injected for real: what a run loses to them, which is nothing."""
