"""Secrets masked in what is printed and written; bounds for what strangers wrote."""
