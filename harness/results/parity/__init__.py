"""Parity checks beside the records: their reports, and rules of a gate on their figures."""
