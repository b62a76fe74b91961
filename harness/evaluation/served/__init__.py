"""Models behind a server: how suites ask them, what they cannot give, and whether they are up."""
