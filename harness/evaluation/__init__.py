"""Suites: read, checked, fingerprinted and run on a model.

`planning`, `runner`, `export` and `cli` import it; `training` does not.
"""
