"""The built-in training methods, a module each. They import the harness, never each other."""
