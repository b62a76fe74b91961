"""The built-in scorers. They live on the public names of the harness."""
