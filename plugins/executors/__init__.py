"""The built-in executors: where cells run. They live on the public names of the harness."""
