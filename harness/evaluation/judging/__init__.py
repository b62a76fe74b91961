"""Judging with a language model: its prompts, its backends and what counts as a verdict.

`evaluation.tasks` and every layer above may import it; what is asked and how verdicts become
scores is a judge's own, in `plugins/judges`.
"""
