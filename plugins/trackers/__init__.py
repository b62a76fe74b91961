"""The built-in trackers. They live on the public names of the harness."""
