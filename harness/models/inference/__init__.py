"""Forward passes that compute each distinct token once: log-likelihoods and greedy answers.

Only `models` and `training.validation_loss` import it; others ask `models.language_model`.
"""
