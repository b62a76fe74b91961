"""Whether an adapter is what it is taken for: its base, vocabulary, tensors and effect."""
