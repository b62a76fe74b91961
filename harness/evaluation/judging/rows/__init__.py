"""Rows held against each other: the answers that a judge compares with, and who is best."""
