"""Scoring and generation side by side with lm-eval's `hf` model and transformers' `generate`.

    python benchmarks/evaluation.py --mirror DIR [--parts mmlu,arc,...] [--limit N] [--to FILE]

Both sides answer the same requests of the same task objects on the same model in one process, task
by task in turn; memory is measured in a process of its own for each side. DIR is laid out as the
Hub: cais/mmlu and allenai/ai2_arc. Prints both times, the ratio and the agreement, and writes all
of it with the machine's description to --to, where parts of an earlier call stay. About an hour on
two cores; --limit shortens it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from harness.data.rows import load_samples
from harness.data.tokenization import encode_prompt
from harness.evaluation.tasks.lm_eval import mirror
from harness.evaluation.tasks.lm_eval.model import shared_prefix_lm
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.transformers_generate import transformers_answers
from harness.models.language_model import LanguageModel, open_artifact
from harness.models.packaged import resolve_model
from harness.results import store
from harness.system.environment import environment
from harness.system.measure import Meter
from harness.types import Artifact

SUPPORT = Path(__file__).parent.parent / "suites/support/test.jsonl"
BATCHES = (1, 4, 8, 16)
PARTS = ("mmlu", "arc", "arc25", "generation", "bf16", "memory")
PROBE = 8
"""Questions on which each batch size is tried."""


@dataclass
class Bench:
    """One model, and what every part needs."""

    model: LanguageModel
    limit: int | None
    floor_tokens_per_second: float = 0.0

    def hf(self, batch: int) -> Any:
        """lm-eval's reference on the same weights."""
        from lm_eval.models.huggingface import HFLM

        with quiet():
            return HFLM(
                pretrained=self.model.model, tokenizer=self.model.tokenizer, batch_size=batch
            )


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, and what it returns."""
    meter = Meter()
    with meter.phase("work"):
        result = work()
    return meter.phases["work"]["seconds"], result


# requests


def tasks(names: Sequence[str], shots: int, limit: int | None) -> dict[str, Any]:
    """lm-eval's tasks with their requests built; the first shots for every question."""
    from lm_eval.api.samplers import FirstNSampler
    from lm_eval.tasks import TaskManager

    loaded = TaskManager().load(list(names))["tasks"]
    for task in loaded.values():
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=1234)
        if shots:
            task.sampler = FirstNSampler(list(task.fewshot_docs()), rnd=1234)
        with quiet():
            task.build_all_requests(limit=limit, rank=0, world_size=1)
    return dict(loaded)


@contextmanager
def quiet() -> Any:
    """Without lm-eval's progress bars."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def whole_subjects(count: int) -> list[str]:
    """The first MMLU subjects by name that have just 100 test questions."""
    import datasets
    from lm_eval.tasks import TaskManager

    found = []
    for name in sorted(TaskManager().all_subtasks):
        if not name.startswith("mmlu_") or name.count("_") > 4:
            continue
        subject = name.removeprefix("mmlu_")
        with quiet():
            try:
                rows = datasets.load_dataset("cais/mmlu", subject, split="test").num_rows
            except Exception:  # a variant of MMLU, such as mmlu_pro, is no subject of it
                continue
        found += [name] if rows == 100 else []
        if len(found) == count:
            break
    return found


# parts


def compare(bench: Bench, loaded: dict[str, Any]) -> dict[str, Any]:
    """Both sides on every task, in turn."""
    first = next(iter(loaded.values())).instances
    questions = dict.fromkeys(request.doc_id for request in first)
    probe = [r for r in first if r.doc_id in list(questions)[:PROBE]]
    shared_prefix_lm(bench.model).loglikelihood(probe)  # both sides start warm
    _run_hf(bench, probe, 8)
    tried = {b: _run_hf(bench, probe, b)[0] for b in BATCHES}
    best = min(tried, key=tried.__getitem__)
    told: dict[str, Any] = {"reference_batches": tried, "reference_batch": best, "tasks": {}}
    for name, task in loaded.items():
        theirs, reference = _run_hf(bench, task.instances, best)
        lm = shared_prefix_lm(bench.model)
        before = floor_speed(bench.model)
        ours, found = seconds(lambda lm=lm, task=task: lm.loglikelihood(task.instances))
        floor = (before + floor_speed(bench.model)) / 2
        tokens = distinct_tokens(lm, task.instances)
        told["tasks"][name] = {
            "questions": len({request.doc_id for request in task.instances}),
            "requests": len(task.instances),
            "reference_seconds": theirs,
            "seconds": ours,
            "ratio": theirs / ours,
            "distinct_tokens": tokens,
            "floor_seconds": tokens / floor,
            **agreement(task.instances, reference, found),
        }
        _print_task(name, told["tasks"][name])
    rows = list(told["tasks"].values())
    total = {
        key: sum(row[key] for row in rows)
        for key in ("questions", "requests", "reference_seconds", "seconds", "floor_seconds")
    }
    total |= {
        "ratio": total["reference_seconds"] / total["seconds"],
        "times_floor": total["seconds"] / total["floor_seconds"],
        "different_predictions": sum(row["different_predictions"] for row in rows),
        "largest_difference": max(row["largest_difference"] for row in rows),
    }
    told["total"] = total
    _print_task(f"all (lm-eval at batch {best})", total)
    return told


def _run_hf(bench: Bench, requests: Sequence[Any], batch: int) -> tuple[float, list[Any]]:
    lm = bench.hf(batch)
    with quiet():
        taken, found = seconds(lambda: lm.loglikelihood(requests, disable_tqdm=True))
    return taken, found


def _print_task(name: str, row: dict[str, Any]) -> None:
    print(
        f"{name}: {row['questions']} questions, lm-eval {row['reference_seconds']:.1f} s, "
        f"ours {row['seconds']:.1f} s, ratio {row['ratio']:.2f}, "
        f"{row['seconds'] / row['floor_seconds']:.2f} times the floor of "
        f"{row['floor_seconds']:.1f} s, {row['different_predictions']} predictions differ, "
        f"log-probabilities by {row['largest_difference']:.1e} at most",
        flush=True,
    )


def agreement(requests: Sequence[Any], a: Sequence[Any], b: Sequence[Any]) -> dict[str, Any]:
    """Questions whose likeliest choice differs, and the largest difference in nats."""
    chosen: list[dict[int, tuple[float, int]]] = [{}, {}]
    for i, request in enumerate(requests):
        for side, scores in zip(chosen, (a, b), strict=True):
            best = side.get(request.doc_id)
            if best is None or scores[i][0] > best[0]:
                side[request.doc_id] = (scores[i][0], i)
    return {
        "different_predictions": sum(chosen[0][d][1] != chosen[1][d][1] for d in chosen[0]),
        "largest_difference": max(abs(x[0] - y[0]) for x, y in zip(a, b, strict=True)),
    }


def distinct_tokens(lm: Any, requests: Sequence[Any]) -> int:
    """Tokens that have to be computed where no prefix is computed twice."""
    pairs = [lm._encode_pair(*request.args) for request in requests]
    whole = sorted({tuple(context + target[:-1]) for context, target in pairs})
    total, before = 0, ()
    for ids in whole:
        same = next((i for i, (x, y) in enumerate(zip(before, ids, strict=False)) if x != y), None)
        total += len(ids) - (min(len(before), len(ids)) if same is None else same)
        before = ids
    return total


def floor_speed(model: LanguageModel) -> float:
    """Tokens a second of the transformer's body on the best of some batch shapes, without head."""
    import torch

    body = model.model.model
    speeds = []
    with torch.inference_mode():
        for rows, length in ((4, 256), (8, 256), (16, 64), (32, 64)):
            ids = torch.randint(0, model.model.config.vocab_size, (rows, length))
            taken = [seconds(lambda ids=ids: body(ids, use_cache=False))[0] for _ in range(2)]
            speeds.append(len(taken) * rows * length / sum(taken))
    return max(speeds)


def generation(bench: Bench) -> dict[str, Any]:
    """The support answers, 48 tokens at most: transformers' `generate` at its best batch size."""
    model = bench.model
    samples = load_samples(SUPPORT)[: bench.limit]
    prompts = sorted((encode_prompt(model.tokenizer, s) for s in samples), key=len)
    ending = Ending(frozenset(model.end_ids), 48)
    pad = int(model.tokenizer.pad_token_id)

    def theirs(batch: int) -> list[Any]:
        parts = [prompts[i : i + batch] for i in range(0, len(prompts), batch)]
        return [
            answer
            for part in parts
            for answer in transformers_answers(model.model, part, ending, pad)
        ]

    batches = (16, 32, 64, len(prompts))
    tried = {batch: seconds(lambda batch=batch: theirs(batch))[0] for batch in batches}
    best = min(tried, key=tried.__getitem__)
    taken, reference = seconds(lambda: theirs(best))
    ours, found = seconds(lambda: model.generate(prompts, max_new_tokens=48))
    told = {
        "answers": len(prompts),
        "reference_batches": tried,
        "reference_batch": best,
        "reference_seconds": min(taken, tried[best]),
        "seconds": ours,
        "ratio": min(taken, tried[best]) / ours,
        "different_answers": sum(a.ids != b.ids for a, b in zip(reference, found, strict=True)),
    }
    print(
        f"generation: {len(prompts)} answers, transformers {told['reference_seconds']:.1f} s at "
        f"batch {best}, ours {ours:.1f} s, ratio {told['ratio']:.2f}, "
        f"{told['different_answers']} answers differ",
        flush=True,
    )
    return told


def verdicts(precision: str, model: LanguageModel, loaded: dict[str, Any]) -> dict[str, Any]:
    """Verdicts that move when the batch size does: lm-eval's and ours, batch 1 against 16."""
    bench = Bench(model, None)
    (task,) = loaded.values()
    reference = [_run_hf(bench, task.instances, batch)[1] for batch in (1, 16)]
    ours = []
    for rows in (1, 16):
        model.limit.rows = rows
        ours.append(shared_prefix_lm(model).loglikelihood(task.instances))
    model.limit.rows = None
    told = {
        "questions": len({request.doc_id for request in task.instances}),
        "batches": [1, 16],
        "reference": agreement(task.instances, *reference),
        "ours": agreement(task.instances, *ours),
    }
    print(
        f"{precision}, batch 1 against 16, {told['questions']} questions: lm-eval moves "
        f"{told['reference']['different_predictions']} verdicts "
        f"({told['reference']['largest_difference']:.1e} nats at most), ours "
        f"{told['ours']['different_predictions']} ({told['ours']['largest_difference']:.1e})",
        flush=True,
    )
    return told


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak resident memory above the loaded model, each side in a process of its own."""
    told = {}
    for side in ("reference", "ours"):
        command = [sys.executable, __file__, "--mirror", str(arguments.mirror), "--side", side]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        told[f"{side}_bytes"] = json.loads(out.splitlines()[-1])
    print(
        "memory above the model at batch 8, MMLU: lm-eval "
        f"{told['reference_bytes'] / 2**20:.0f} MiB, ours {told['ours_bytes'] / 2**20:.0f} MiB",
        flush=True,
    )
    return told


def memory_of(side: str, model: LanguageModel) -> int:
    """Bytes above the loaded model while 40 MMLU questions are scored at batch 8."""
    import psutil

    loaded = tasks(["mmlu_business_ethics"], 5, 40)
    requests = loaded["mmlu_business_ethics"].instances
    model.limit.rows = 8
    lm = shared_prefix_lm(model) if side == "ours" else Bench(model, None).hf(8)
    before = psutil.Process().memory_info().rss
    meter = Meter()
    with meter.phase("score"), quiet():
        lm.loglikelihood(requests, disable_tqdm=True)
    return int(meter.phases["score"]["peak_host_bytes"]) - before


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--limit", type=int, help="questions of each task")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--to", type=Path, help="a JSON file")
    parser.add_argument("--side", choices=["reference", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    mirror.use(arguments.mirror)
    base = resolve_model(arguments.model, mirror=arguments.mirror)
    model = open_artifact(Artifact("base", base, precision="float32"))
    if arguments.side:
        print(memory_of(arguments.side, model))
        return
    told: dict[str, Any] = {"model": arguments.model, "environment": environment()}
    told["threads"] = __import__("torch").get_num_threads()
    if arguments.to and arguments.to.is_file():  # parts of an earlier call on this machine
        earlier = json.loads(arguments.to.read_text(encoding="utf-8"))
        if all(earlier.get(key) == value for key, value in told.items()):
            told = earlier
    bench = Bench(model, arguments.limit)
    for part in arguments.parts.split(","):
        told[part] = run(part, bench, base, arguments)
        if arguments.to:
            store.write_json(arguments.to, told)


def run(part: str, bench: Bench, base: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """One part of the benchmark."""
    limit = arguments.limit
    if part == "mmlu":
        return compare(bench, tasks(whole_subjects(arguments.subjects), 5, limit))
    if part == "arc":
        return compare(bench, tasks(["arc_easy", "arc_challenge"], 0, limit or 300))
    if part == "arc25":
        return compare(bench, tasks(["arc_challenge"], 25, limit or 100))
    if part == "generation":
        return generation(bench)
    if part == "memory":
        return memory(arguments)
    if part != "bf16":
        raise SystemExit(f"unknown part {part}: one of {', '.join(PARTS)}")
    loaded = tasks(["arc_easy"], 0, limit or 60)
    bf16 = open_artifact(Artifact("base", base, precision="bf16"))
    return {
        "float32": verdicts("float32", bench.model, loaded),
        "bf16": verdicts("bf16", bf16, loaded),
    }


if __name__ == "__main__":
    main()
