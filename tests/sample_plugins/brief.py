"""A scorer of one's own."""

from harness import hookimpl, scorer


@scorer("brief", kind="share")
def brief(text, sample, *, words: int = 20):
    """1 where the answer has at most so many words."""
    return float(len(text.split()) <= words)


@hookimpl
def register_scorers(register):
    register(brief)
