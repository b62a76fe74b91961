"""The ways in which a suite asks a model, a module each.

`evaluation` and every layer above may import it.
"""
