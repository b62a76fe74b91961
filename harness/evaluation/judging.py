"""What judges need: prompts for a model that judges, and when a verdict counts as none."""

from __future__ import annotations

from collections.abc import Sequence

from harness.api.judge import Judgement
from harness.api.model import Model, Request
from harness.data.tokenization import encode_pair, encode_text, render
from harness.errors import CellFailed
from harness.evaluation.tasks.sample_rows import MISSING_BUDGET
from harness.types import Message


def encode_chat(model: Model, messages: Sequence[Message], *, start: str = "") -> list[int]:
    """Token ids of a conversation up to where the model answers, for `model.generate`.

    `start` is what its answer already begins with. Raises UserError where the model has no chat
    template, or its template refuses the conversation.
    """
    return _encode(model, _prompt(model, messages, start))


def encode_continuations(
    model: Model, messages: Sequence[Message], continuations: Sequence[str], *, start: str = ""
) -> list[Request]:
    """(context, continuation) token ids for `model.loglikelihood`, one for each continuation.

    The context is the conversation up to where the model answers, and `start`. Raises UserError
    as `encode_chat`, and for a continuation that the tokenizer has no token for.
    """
    context = _prompt(model, messages, start)
    pairs = [
        encode_pair(model.tokenizer, context, text, lambda whole: _encode(model, whole))
        for text in continuations
    ]
    return [(pair.context, pair.continuation) for pair in pairs]


def _prompt(model: Model, messages: Sequence[Message], start: str) -> str:
    return render(model.tokenizer, messages, model.chat_template, generation_prompt=True) + start


def _encode(model: Model, text: str) -> list[int]:
    """Without special tokens: the template has written them."""
    return encode_text(model.tokenizer, text, add_special_tokens=False)


def check_finite(judgement: Judgement) -> None:
    """Raise CellFailed where more answers could not be rated than may be missing."""
    broken, answers = judgement.not_finite, len(judgement.scores)
    if broken > MISSING_BUDGET * answers:
        raise CellFailed(
            f"the judge cannot rate {broken} of {answers} answers: its log-probabilities are not "
            "finite; look for NaN or infinity in its weights"
        )
