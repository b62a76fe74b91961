"""Answers in a model's own words, from sample rows: what is degenerate in them, and reasoning."""
