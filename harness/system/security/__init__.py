"""Secrets masked in what is printed and written, and templates of strangers in a sandbox."""
