"""The built-in scorers. They import the harness, never each other."""
