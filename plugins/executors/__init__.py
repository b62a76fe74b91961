"""The built-in executors: where cells run. They import the harness, never each other."""
