"""The command line: a module per command.

Nothing imports it.
"""
