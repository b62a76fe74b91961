"""The built-in trackers. They import the harness, never each other."""
