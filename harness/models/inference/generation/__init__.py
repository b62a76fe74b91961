"""Greedy answers: by continuous batching where prefixes are shared, else by transformers."""
