"""Attention with its log-sum-exp: kernels, patterns, and the past that passes go on from."""
