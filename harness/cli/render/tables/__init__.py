"""Leaderboards for elsewhere: their columns, and Markdown, CSV, LaTeX and JSON of them."""
