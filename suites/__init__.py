"""The built-in suites: a YAML file and its data each. Copy one to make your own."""
