"""Scoring and generation on one GPU: the parts `evaluation` and `generation` of gpu.py.

Token ids are drawn at random in the shapes of MMLU with five shots (stems that 25 questions share,
four answers of one token each) and of 64 answers to prompts of unlike lengths. Each side gets the
same ids and the same weights in the same process: lm-eval's `hf` model and transformers' `generate`
at the best of a few batch sizes. The share of the roofline is of what this device did in this
process: its fastest matrix product (scoring) and copy (generation).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import is_out_of_memory
from harness.models.language_model import LanguageModel
from harness.system.hardware import free_memory
from harness.system.measure import Meter
from harness.types import Artifact, ModelRef, Precision

Request = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Workload:
    """How many requests of which lengths, in tokens."""

    stems: int
    stem: int
    questions: int
    """To a stem."""
    question: int
    prompts: int
    shortest: int
    longest: int
    new: int
    """Tokens of each answer."""
    batches: tuple[int, ...]
    """Sequences at once that the other side tries."""


GPU = Workload(4, 450, 25, 80, 64, 100, 600, 128, (8, 32, 64))
CPU = Workload(2, 40, 4, 10, 6, 5, 20, 8, (2, 4))
"""To show that it works."""
CHOICES = 4


def measure(model: Any, tokenizer: Any, size: str, precision: Precision) -> dict[str, Any]:
    """Both parts on one model; `oom` in the place of a side that runs out of memory."""
    load = GPU if model.device.type == "cuda" else CPU
    opened = LanguageModel(
        model, tokenizer, Artifact("base", ModelRef(size, size), None, None, precision)
    )
    ceiling = ceilings(model)
    vocabulary = int(model.config.vocab_size)
    return {
        "size": size,
        "precision": precision,
        "workload": asdict(load),
        "ceilings": ceiling,
        "evaluation": evaluation(opened, load, vocabulary, ceiling),
        "generation": generation(opened, load, vocabulary, ceiling),
    }


def ceilings(model: Any) -> dict[str, float]:
    """The fastest matrix product (FLOP a second) and copy (bytes a second) of the device here."""
    import torch

    width = 8192 if model.device.type == "cuda" else 512
    a = torch.ones(width, width, dtype=model.dtype, device=model.device)
    b = torch.empty_like(a)
    with torch.inference_mode():
        product = min(timed(lambda: torch.mm(a, a, out=b))[0] for _ in range(5))
        copy = min(timed(lambda: b.copy_(a))[0] for _ in range(5))
    moved = 2 * a.numel() * a.element_size()
    return {"flop_per_second": 2 * width**3 / product, "bytes_per_second": moved / copy}


def timed(work: Callable[[], Any]) -> tuple[float, Any, int | None]:
    """Seconds until the device is done, the result, and peak bytes of the CUDA allocator."""
    meter = Meter()
    with meter.phase("work"):
        result = work()
    phase = meter.phases["work"]
    return float(phase["seconds"] or 0.0), result, phase["peak_allocated_bytes"]


def side(work: Callable[[], Any]) -> dict[str, Any]:
    """Seconds, peak and the result of one side; `oom` where it ran out of memory."""
    try:
        seconds, result, peak = timed(work)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        error.__traceback__ = None
        free_memory()
        return {"oom": str(error).splitlines()[0][:200]}
    return {"seconds": seconds, "peak_allocated_bytes": peak, "result": result}


def best_of(batches: Sequence[int], work: Callable[[int], Any]) -> dict[str, Any]:
    """The fastest of some batch sizes, each whole: the other side is given its best."""
    tried = {batch: side(lambda batch=batch: work(batch)) for batch in batches}
    ran = {batch: one for batch, one in tried.items() if "seconds" in one}
    if not ran:
        return next(iter(tried.values()))
    best = min(ran, key=lambda batch: ran[batch]["seconds"])
    return {**ran[best], "batch": best}


# ---- evaluation ----------------------------------------------------------------------------------


def questions(load: Workload, vocabulary: int) -> list[Request]:
    """(context, answer) of every choice of every question; seeded."""
    draw = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(5, vocabulary) for _ in range(count)]

    requests = []
    for _ in range(load.stems):
        stem, choices = tokens(load.stem), tokens(CHOICES)
        for _ in range(load.questions):
            context = stem + tokens(load.question)
            requests += [(context, [choice]) for choice in choices]
    return requests


def evaluation(
    model: LanguageModel, load: Workload, vocabulary: int, ceiling: Mapping[str, float]
) -> dict[str, Any]:
    """Log-likelihoods here and by lm-eval's `hf` model."""
    requests = questions(load, vocabulary)
    model.loglikelihood(requests[: CHOICES * 2])  # both sides start warm
    ours = side(lambda: [one.logprob for one in model.loglikelihood(requests)])
    free_memory()
    reference = best_of(load.batches, lambda batch: lm_eval_scores(model, requests, batch))
    distinct = load.stems * (load.stem + load.questions * load.question)
    body = sum(
        p.numel()
        for name, p in model.model.named_parameters()
        if "embed" not in name and p.dim() > 1
    )
    told = {
        "distinct_tokens": distinct,
        "requests": len(requests),
        **compared(ours, reference),
    }
    if "seconds" in ours:
        told["tokens_per_second"] = distinct / ours["seconds"]
        told["share_of_matmul"] = 2 * body * distinct / ours["seconds"] / ceiling["flop_per_second"]
    if "seconds" in ours and "seconds" in reference:
        told |= agreement(ours["result"], reference["result"])
    return told


def lm_eval_scores(model: LanguageModel, requests: Sequence[Request], batch: int) -> list[float]:
    """lm-eval's log-probabilities on the same weights."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch)
    # its own cache of contexts tells requests apart by their texts
    named = [((str(i // CHOICES), str(i)), *request) for i, request in enumerate(requests)]
    return [score for score, _ in lm._loglikelihood_tokens(named, disable_tqdm=True)]


def agreement(ours: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Questions whose likeliest choice differs, and the largest difference in nats."""

    def chosen(scores: Sequence[float]) -> list[int]:
        return [
            max(range(CHOICES), key=lambda i, at=at: scores[at + i])
            for at in range(0, len(scores), CHOICES)
        ]

    pairs = list(zip(chosen(ours), chosen(reference), strict=True))
    return {
        "different_predictions": sum(a != b for a, b in pairs),
        "questions": len(pairs),
        "largest_difference": max(abs(a - b) for a, b in zip(ours, reference, strict=True)),
    }


# ---- generation ----------------------------------------------------------------------------------


def generation(
    model: LanguageModel, load: Workload, vocabulary: int, ceiling: Mapping[str, float]
) -> dict[str, Any]:
    """Greedy answers here and by transformers' `generate`; no answer ends before its last token."""
    draw = random.Random(1)
    lengths = [draw.randint(load.shortest, load.longest) for _ in range(load.prompts)]
    prompts = [[draw.randrange(5, vocabulary) for _ in range(length)] for length in lengths]
    model.end_ids = []
    model.generate(prompts[:2], max_new_tokens=2)
    ours = side(lambda: [list(a.ids) for a in model.generate(prompts, max_new_tokens=load.new)])
    free_memory()
    batches = sorted({min(batch, load.prompts) for batch in load.batches})
    reference = best_of(
        batches, lambda batch: transformers_answers(model, prompts, load.new, batch)
    )
    told = {"answers": load.prompts, "new_tokens": load.prompts * load.new}
    told |= compared(ours, reference)
    if "seconds" in ours:
        told["tokens_per_second"] = told["new_tokens"] / ours["seconds"]
        read = bytes_read(model.model, lengths, load.new)
        told["share_of_copy"] = read / ours["seconds"] / ceiling["bytes_per_second"]
    if "seconds" in ours and "seconds" in reference:
        told["different_answers"] = sum(
            a != b for a, b in zip(ours["result"], reference["result"], strict=True)
        )
    return told


def transformers_answers(
    model: LanguageModel, prompts: Sequence[Sequence[int]], new: int, batch: int
) -> list[list[int]]:
    """Its greedy answers, prompts padded on the left, those of like length together."""
    import torch

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, list[int]] = {}
    for at in range(0, len(order), batch):
        part = order[at : at + batch]
        width = max(len(prompts[i]) for i in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(part):
            ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, width - len(prompts[i]) :] = 1
        with torch.inference_mode():
            out = model.model.generate(
                input_ids=ids.to(model.model.device),
                attention_mask=mask.to(model.model.device),
                do_sample=False,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=0,
            )
        answers |= dict(zip(part, out[:, width:].tolist(), strict=True))
    return [answers[i] for i in range(len(prompts))]


def bytes_read(model: Any, lengths: Sequence[int], new: int) -> int:
    """What decoding must read: all weights once a step, and each row's keys and values."""
    config = model.config
    heads = config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = model.dtype.itemsize
    weights = sum(
        p.numel() * p.element_size()
        for name, p in model.named_parameters()
        if "embed_tokens" not in name
    )
    past = sum(length * new + new * (new - 1) // 2 for length in lengths)
    return new * weights + past * 2 * config.num_hidden_layers * heads * width * size


def compared(ours: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """Both sides without their results, and how many times faster ours is."""
    told: dict[str, Any] = {
        "harness": {key: value for key, value in ours.items() if key != "result"},
        "reference": {key: value for key, value in reference.items() if key != "result"},
    }
    if "seconds" in ours and "seconds" in reference:
        told["speed_ratio"] = reference["seconds"] / ours["seconds"]
    return told


def lines(told: Mapping[str, Any]) -> list[str]:
    """A model's figures, one line a part."""
    scoring, answers = told["evaluation"], told["generation"]
    return [
        f"{told['size']} scoring, {scoring['requests']} choices: "
        + _line(scoring, "lm-eval", "share_of_matmul", "of the fastest matrix product"),
        f"{told['size']} generation, {answers['answers']} answers: "
        + _line(answers, "transformers", "share_of_copy", "of the fastest copy"),
    ]


def _line(told: Mapping[str, Any], other: str, share: str, of: str) -> str:
    ours = told["harness"]
    if "oom" in ours:
        return "out of memory"
    peak = ours["peak_allocated_bytes"]
    memory = f", {peak / 2**30:.2f} GiB" if peak else ""
    text = f"{told['tokens_per_second']:.0f} tokens/s, {told[share]:.0%} {of}{memory}"
    if "speed_ratio" not in told:
        return f"{text}, {other}: out of memory"
    unlike = told.get("different_predictions", told.get("different_answers"))
    return f"{text}, {told['speed_ratio']:.2f} times {other}, {unlike} differ"
