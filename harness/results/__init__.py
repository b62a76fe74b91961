"""Records and their sample files, and pure functions of them.

`models` and every layer above may import it; only `store` writes results.
"""
