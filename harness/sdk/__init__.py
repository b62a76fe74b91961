"""The Python API that the command line is built on: runs, results, comparisons, gates."""
