"""Models: resolved, checked, opened and compared.

`training`, `evaluation` and every layer above may import it.
"""
