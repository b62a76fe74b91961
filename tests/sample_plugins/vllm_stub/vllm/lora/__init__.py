"""Adapters of vLLM's interface."""
