"""The search for a method's options: which values are tried, by whom, and which win."""
