"""The built-in judges. They import the harness, never each other."""
