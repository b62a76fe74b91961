"""Health checks: what is wrong with a training, reported by name, with what to do about it.

`training` and every layer above may import it.
"""
