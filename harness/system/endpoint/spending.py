"""What requests to an endpoint cost, and the budget that they stay within."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from harness.system.endpoint.completion import ChatRequest, Request, Usage

__all__ = ["Budget", "Ledger", "Price", "estimate"]

_BYTES_PER_TOKEN = 3
"""Of UTF-8 text: English has about 4, so that a guess is rather too high than too low."""
_TOKENS_PER_MESSAGE = 8
"""What chat templates write around one."""


@dataclass(frozen=True)
class Budget:
    """The most that may be spent; None: no limit."""

    requests: int | None = None
    """HTTP requests, those that are sent again too."""
    tokens: int | None = None
    """Input and output together."""
    dollars: float | None = None


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens."""

    input: float
    output: float

    def of(self, usage: Usage) -> float:
        """Dollars for so many tokens."""
        return (usage.input * self.input + usage.output * self.output) / 1e6


def estimate(request: Request) -> Usage:
    """The tokens that a request takes at most, guessed before it is sent."""
    messages = len(request.messages) if isinstance(request, ChatRequest) else 1
    return Usage(
        input=request.text_bytes // _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * messages,
        output=request.max_tokens * request.samples,
    )


@dataclass
class Ledger:
    """Counts what was spent, and holds back what requests under way may come to."""

    budget: Budget = field(default_factory=Budget)
    price: Price | None = None
    requests: int = 0
    """HTTP requests sent."""
    retried: Counter[str] = field(default_factory=Counter)
    """Those that were sent again, by why."""
    input_tokens: int = 0
    output_tokens: int = 0
    guessed: int = 0
    """Requests whose tokens the endpoint did not report: their estimates are counted."""
    _held: Counter[Usage] = field(default_factory=Counter)
    _low: float = 1.0
    """By which factor an estimate of input tokens was too low so far, at most."""

    @property
    def under_way(self) -> int:
        """Requests that are sent and not settled."""
        return self._held.total()

    @property
    def spent(self) -> Usage:
        """Tokens of the settled requests."""
        return Usage(self.input_tokens, self.output_tokens)

    @property
    def dollars(self) -> float | None:
        """What they cost; None without a price."""
        return None if self.price is None else self.price.of(self.spent)

    def exceeded_by(self, request: Request) -> str | None:
        """The budget that the request would exceed, such as `200 requests`; None where it fits."""
        budget, guess = self.budget, estimate(request)
        held = [*self._held.elements(), guess]
        most = Usage(
            self.input_tokens + math.ceil(self._low * sum(usage.input for usage in held)),
            self.output_tokens + sum(usage.output for usage in held),
        )
        if budget.requests is not None and self.requests + 1 > budget.requests:
            return f"{budget.requests} requests"
        if budget.tokens is not None and most.total > budget.tokens:
            return f"{budget.tokens} tokens"
        if budget.dollars is not None and self.price and self.price.of(most) > budget.dollars:
            return f"{budget.dollars:g} dollars"
        return None

    def begin(self, request: Request) -> None:
        """Count a request that is sent now, and hold its estimate back."""
        self.requests += 1
        self._held[estimate(request)] += 1

    def settle(self, request: Request, usage: Usage | None, *, billed: bool = True) -> None:
        """Count its tokens in place of the estimate, which stands where they are not known.

        Nothing is counted for what is not `billed`: an answer that is an HTTP error.
        """
        guess = estimate(request)
        self._held[guess] -= 1
        if not billed:
            return
        if usage is None:
            self.guessed += 1
            usage = guess
        else:
            self._low = max(self._low, usage.input / max(guess.input, 1))
        self.input_tokens += usage.input
        self.output_tokens += usage.output
