"""Several judges of the same answers: who they are, and what they say together."""
