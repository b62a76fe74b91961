"""The one training recipe that methods parametrise.

`planning`, `runner`, `export`, `cli` and the methods import it; `evaluation` does not.
"""
