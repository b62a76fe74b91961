"""Runs cells: one worker process each, tried again after an OOM, tuned, tracked and recorded.

Only `cli` imports it; `export` does not.
"""
