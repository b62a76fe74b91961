"""The built-in plugins. Each registers through the same hooks as anybody's plugin."""
