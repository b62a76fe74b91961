"""Makes docs/reference/, the pages that say what the code says, from the code."""
