"""This machine: its hardware, processes, clock, terminal, cache and the Hub.

Everything may import it but `manager`, `hookspecs`, `types` and `errors`, which lie below it.
"""
