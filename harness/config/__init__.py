"""Files that users write: strict YAML, and the experiment that it holds.

Every layer above may import it, from `api` up.
"""
