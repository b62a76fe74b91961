"""Rows: read, checked, mixed, split and made into tokens.

`models` and every layer above may import it; it knows no record and no model.
"""
