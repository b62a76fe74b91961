"""Published figures held against the samples shipped with them: what holds and what does not."""
