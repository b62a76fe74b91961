"""The built-in judges. They live on the public names of the harness."""
