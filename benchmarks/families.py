"""Scoring with shared prefixes beside plain passes, for families that do not attend to everything.

    python benchmarks/families.py [--rounds N] [--to FILE]

Gemma 3 (a sliding window), Qwen3.5 (layers that keep a state) and gpt-oss (windows and sinks),
small and random, get requests in the shapes of MMLU with five shots: stems of 450 tokens, to each
25 questions of 80 more, four answers of one token. `plain` computes each request from its first
token on, in batches of as many tokens, as transformers does; `contexts` computes what the four
answers share once, as lm-eval's cache of contexts does. The ways run in turn in one process. No
downloads; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_inference import CHOICES, Request, Workload, questions, timed

from harness.api.model import LogLikelihood
from harness.models.causal_lm import CausalLM
from harness.models.inference.forward import Limit
from harness.models.inference.loglikelihood import Sharing, score_requests, sharing
from harness.results import store
from harness.system.environment import environment

VOCABULARY, LENGTH, TOKENS = 8000, 4096, 2048
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": LENGTH,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Gemma 3": ("Gemma3TextConfig", {"sliding_window": 512}),
    "Qwen3.5": ("Qwen3_5TextConfig", {"linear_num_key_heads": 4, "linear_num_value_heads": 8}),
    "gpt-oss": ("GptOssConfig", {"num_local_experts": 8, "intermediate_size": 512}),
}
LOAD = Workload(2, 450, 25, 80, 0, 0, 0, 0, ())


def built(config: str, sizes: dict[str, Any]) -> CausalLM:
    """A random model, float32, the same each time."""
    import torch
    import transformers

    torch.manual_seed(0)
    settings = getattr(transformers, config)(**{**SIZES, **sizes})
    model: CausalLM = transformers.AutoModelForCausalLM.from_config(settings)
    return model.float().eval()


def shared(model: CausalLM, requests: Sequence[Request], how: Sharing) -> list[float]:
    """Log-probabilities, prefixes shared as the model can."""
    return logprobs(
        score_requests(
            model, requests, max_length=LENGTH, limit=Limit(TOKENS), share=True, cache=how.cache
        )
    )


def contexts(model: CausalLM, requests: Sequence[Request], how: Sharing) -> list[float]:
    """Those of passes that share a question between its answers, and nothing more."""
    return logprobs(
        score_requests(model, requests, max_length=LENGTH, limit=Limit(TOKENS), share=False)
    )


def plain(model: CausalLM, requests: Sequence[Request], how: Sharing) -> list[float]:
    """Those of transformers' own forward passes over each request, batched."""
    import torch

    rows = TOKENS // (LOAD.stem + LOAD.question)
    found = []
    with torch.inference_mode():
        for at in range(0, len(requests), rows):
            part = requests[at : at + rows]
            ids = torch.tensor([context for context, _ in part])  # all are as long
            logits = model(input_ids=ids, logits_to_keep=1, use_cache=False).logits[:, -1]
            answers = torch.tensor([answer for _, answer in part])
            found += logits.log_softmax(dim=-1).gather(1, answers)[:, 0].tolist()
    return found


def logprobs(found: Sequence[LogLikelihood]) -> list[float]:
    """Each request's."""
    return [one.logprob for one in found]


WAYS = {"shared": shared, "contexts": contexts, "plain": plain}


def compare(name: str, rounds: int) -> dict[str, Any]:
    """The median seconds of each way, and how far log-probabilities are from the plain ones."""
    model = built(*FAMILIES[name])
    how = sharing(model)
    requests = questions(LOAD, VOCABULARY)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way, run in WAYS.items():
            took, found[way], _ = timed(lambda run=run: run(model, requests, how))
            seconds[way].append(took)
    median = {way: statistics.median(values) for way, values in seconds.items()}
    told = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "requests": len(requests),
        "way": "by its cache" if how.cache else how.why_not or "packs",
        "seconds": seconds,
        "speed_ratio": {way: median[way] / median["shared"] for way in ("contexts", "plain")},
        "largest_difference": max(
            abs(a - b) for a, b in zip(found["shared"], found["plain"], strict=True)
        ),
    }
    print(
        f"{name} ({told['way']}): {len(requests) // CHOICES} questions, plain passes "
        f"{median['plain']:.2f} s, a question once {median['contexts']:.2f} s, shared prefixes "
        f"{median['shared']:.2f} s: {told['speed_ratio']['plain']:.1f} and "
        f"{told['speed_ratio']['contexts']:.1f} times, log-probabilities by "
        f"{told['largest_difference']:.1e} at most",
        flush=True,
    )
    return told


def main() -> None:
    """Compare each family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--to", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    told: dict[str, Any] = {"environment": environment()}
    told |= {name: compare(name, arguments.rounds) for name in FAMILIES}
    if arguments.to:
        store.write_json(arguments.to, told)


if __name__ == "__main__":
    main()
