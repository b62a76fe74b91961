"""From an experiment to cells, each with the id of everything its result depends on.

`runner`, `export` and `cli` import it.
"""
