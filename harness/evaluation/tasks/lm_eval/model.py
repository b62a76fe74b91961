"""lm-eval's model interface on a Model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.api.model import LogLikelihood, Model, Progress, Request
from harness.data.tokenization import encode_pair, encode_text
from harness.errors import UserError
from harness.evaluation.lm_eval_samples.rows import NoAnswer, Reply
from harness.evaluation.tasks import reasoning
from harness.evaluation.tasks.reasoning import Markers

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

GREEDY = {"do_sample", "temperature", "max_gen_toks", "until"}
"""Settings of a generating task that greedy decoding honours; others would change the answers."""


def shared_prefix_lm(  # noqa: C901
    model: Model,
    progress: Progress | None = None,
    markers: Markers | None = None,
    max_gen_toks: int | None = None,
) -> LM:
    """An lm-eval `LM` that answers with `model`'s shared-prefix scoring; `cut` counts what was cut.

    Tokens are made as lm-eval's HFLM makes them. With `markers` of reasoning a text is what follows
    it, and a `Reply`; `max_gen_toks` replaces the tasks' own. Raises UserError where a task wants
    sampling.
    """
    from lm_eval.api.model import TemplateLM

    class SharedPrefixLM(TemplateLM):
        tokenizer = model.tokenizer
        tokenizer_name = model.name.replace("/", "__")
        cut = 0
        encoded: ClassVar[dict[tuple[str, bool | None], list[int]]] = {}
        """A question's context comes with each of its choices; forgotten after each call."""

        @property
        def eot_token_id(self) -> int:
            return model.end_token

        @property
        def prefix_token_id(self) -> int:
            return model.prefix_token

        @property
        def max_length(self) -> int:
            return model.max_length

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **kwargs: object
        ) -> list[int]:
            # As HFLM: special tokens by the tokenizer's own default, unless the string
            # (a rendered chat template) begins with the BOS token already.
            bos = model.tokenizer.bos_token
            if add_special_tokens is None and bos and string.startswith(bos):
                add_special_tokens = False
            extra = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
            key = string, add_special_tokens
            if key not in self.encoded:
                self.encoded[key] = encode_text(model.tokenizer, string, **extra)
            return list(self.encoded[key])

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            """As lm-eval's, but that a token across the join leaves no text unscored."""
            bare = context.rstrip()
            continuation, context = context[len(bare) :] + continuation, bare
            pair = encode_pair(model.tokenizer, context, continuation, self.tok_encode)
            return pair.context or [self.prefix_token_id], pair.continuation

        def _score(self, pairs: Sequence[Request]) -> list[LogLikelihood]:
            scores = model.loglikelihood(pairs, progress)
            self.cut += sum(score.cut for score in scores)
            return list(scores)

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[object, list[int], list[int]]], **kwargs: object
        ) -> list[tuple[float, bool]]:
            scores = self._score([(context, target) for _, context, target in requests])
            return [(score.logprob, score.greedy) for score in scores]

        def loglikelihood(
            self, requests: Sequence[Instance], disable_tqdm: bool = True
        ) -> list[tuple[float, bool]]:
            try:
                return list(super().loglikelihood(requests, disable_tqdm=True))
            finally:
                self.encoded.clear()

        def loglikelihood_rolling(
            self, requests: Sequence[Instance], disable_tqdm: bool = True
        ) -> list[float]:
            windows = [self._windows(*request.args) for request in requests]
            scores = iter(self._score([pair for pairs in windows for pair in pairs]))
            return [sum(next(scores).logprob for _ in pairs) for pairs in windows]

        def _windows(self, text: str) -> list[Request]:
            """A text in pieces of the model's length, each token scored once."""
            from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            return [make_disjoint_window(window) for window in windows]

        def generate_until(
            self, requests: Sequence[Instance], disable_tqdm: bool = True
        ) -> list[str]:
            answers: dict[int, str] = {}
            for (own_cap, stops), numbers in _alike(requests, model.tokenizer).items():
                cap = max_gen_toks or own_cap
                contexts = [self.tok_encode(requests[i].args[0]) for i in numbers]
                room = self.max_length - cap
                if room <= 0:  # lm-eval refuses it too
                    raise UserError(
                        f"a task asks for {cap} new tokens, which leaves no room for a question in "
                        f"the model's context of {self.max_length}: "
                        + (
                            "give the suite a smaller one"
                            if max_gen_toks
                            else "give the task's `generation_kwargs` a smaller `max_gen_toks`"
                        )
                    )
                self.cut += sum(len(context) > room for context in contexts)
                prompts = [context[-room:] for context in contexts]
                out = model.generate(
                    prompts,
                    max_new_tokens=cap,
                    stops=() if markers else stops,  # reasoning may hold them
                    progress=progress,
                )
                said = reasoning.answers(markers, model.tokenizer, prompts, out, model.text)
                texts = [
                    Reply(_until(answer.text, stops), _row(markers, answer))
                    if generated.finite
                    else NoAnswer()
                    for answer, generated in zip(said, out, strict=True)
                ]
                answers |= dict(zip(numbers, texts, strict=True))
            return [answers[i] for i in range(len(requests))]

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            from harness.data.tokenization import render

            return render(
                model.tokenizer,
                chat_history,
                model.chat_template,
                generation_prompt=add_generation_prompt,
            )

    return SharedPrefixLM()


def _alike(
    requests: Sequence[Instance], tokenizer: object
) -> dict[tuple[int, tuple[str, ...]], list[int]]:
    """Numbers of the requests that share a cap on new tokens and stop strings."""
    groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for number, request in enumerate(requests):
        settings = request.args[1]
        _check_greedy(settings)
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        key = int(settings.get("max_gen_toks", 256)), tuple(stop for stop in stops if stop)
        groups.setdefault(key, []).append(number)
    return groups


def _check_greedy(settings: Mapping[str, Any]) -> None:
    sampled = settings.get("do_sample") and settings.get("temperature", 1.0) != 0
    strange = [key for key in settings if key not in GREEDY]
    if sampled or strange:
        what = ", ".join(strange) if strange else "sampling"
        raise UserError(f"a task asks for {what}; only greedy decoding is supported")


def _row(markers: Markers | None, answer: reasoning.Answer) -> dict[str, object]:
    """What the sample row keeps of an answer's reasoning; nothing where nobody looked for any."""
    return {**reasoning.of_row(answer), "tokens": answer.tokens} if markers else {}


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
