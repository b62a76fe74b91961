"""Which differences a design can tell from zero, by what earlier records varied, and the cost.

`planning` and every layer above may import it.
"""
