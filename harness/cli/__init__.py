"""The command line: its group, and options that commands share.

Nothing imports it.
"""
