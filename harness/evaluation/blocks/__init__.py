"""Answers in blocks that are kept as they come: a run that was cut off goes on from there."""
