"""Models behind an OpenAI-compatible endpoint: requests, retries, budgets and costs."""
