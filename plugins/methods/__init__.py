"""The built-in training methods, a module each. They live on the public names of the harness."""
