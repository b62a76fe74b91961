"""A trained cell as a folder that other libraries load.

Only `cli` imports it; `runner` does not.
"""
