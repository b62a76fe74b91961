"""What makes parts of this repository out of others, by hand or by `make`.

A package with this file, for distributions exist that install a package `scripts` of their own.
"""
