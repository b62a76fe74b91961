"""Whether the model that is shipped is the one that was measured, and if not, why."""
