"""Memory and time of a training, predicted before they are spent; `trace` alone imports torch.

`runner`, `export` and `cli` import it.
"""
