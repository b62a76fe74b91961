"""A language model that is open for evaluation: log-likelihoods and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Progress = Callable[[int, int], None]
"""`progress(done, total)`: requests that are finished, of how many."""

Request = tuple[Sequence[int], Sequence[int]]
"""(context, continuation) as token ids; the continuation has at least one."""


@dataclass(frozen=True)
class LogLikelihood:
    """How likely a continuation is after its context."""

    logprob: float
    """Sum over the continuation's tokens, in nats; NaN, a missing value, where the model's
    log-probability of one of them is not finite."""
    greedy: bool
    """True where each token was the most likely one; never where `logprob` is NaN."""
    token_logprobs: tuple[float, ...]
    """Nats, one a token of the continuation."""
    cut: bool
    """True where the context lost its beginning to fit the model's length."""


@dataclass(frozen=True)
class Generation:
    """An answer as token ids, without the end token."""

    ids: tuple[int, ...]
    capped: bool
    """True where `max_new_tokens` came before an end token."""
    finite: bool = True
    """False where the answer ends because the model's logits for its next token are not finite:
    what it would have said is unknown, so it is a missing value."""
    cut: bool = False
    """True where the prompt lost its beginning to leave room for the answer."""
    counted: int | None = None
    """Tokens by a server's own count, where `ids` are another tokenizer's."""

    @property
    def tokens(self) -> int:
        """Generated tokens, without the end token."""
        return len(self.ids) if self.counted is None else self.counted


class Model(Protocol):
    """A causal language model that is open for evaluation.

    What the hook `open_model` returns, and all that suites, scorers and judges use of a model.
    `harness.LanguageModel` is one, of a transformers model in this process; a plugin may write
    another, such as a model that a server holds. One that has `warnings`, lines on what is doubtful
    about it, gets them into the record.
    """

    @property
    def name(self) -> str:
        """As the experiment names it: an alias, a folder or a Hub id."""

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer (`PreTrainedTokenizerBase`) that makes its token ids."""

    @property
    def chat_template(self) -> str | None:
        """A Jinja template that replaces the tokenizer's own, or None."""

    @property
    def max_length(self) -> int:
        """The most tokens that it attends to at once, prompt and answer together."""

    @property
    def prefix_token(self) -> int:
        """The token before a text without context: BOS, else EOS. UserError where it has none."""

    @property
    def end_token(self) -> int:
        """EOS, else a token that ends an answer. UserError where it has none."""

    def loglikelihood(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> list[LogLikelihood]:
        """The log-probability of each continuation after its context, in the requests' order."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Greedy answers to prompts given as token ids, in their order.

        An answer ends at an end token, after a text of `stops` (which it keeps) or at
        `max_new_tokens`.
        """

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out. Works after `close` too."""

    def info(self) -> Mapping[str, Any]:
        """How it ran, for the record's `evaluation.passes`; none of it changes a score.

        JSON values. `batch` is how many sequences ran at once, or `auto`. Works after `close` too.
        """

    def close(self) -> None:
        """Free the memory that it holds."""
