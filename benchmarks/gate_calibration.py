"""How often the gate stops a model that is as good, and how often it lets a worse one through.

    python benchmarks/gate_calibration.py measure --mirror DIR --out DIR
    python benchmarks/gate_calibration.py simulate --out DIR --to FILE.json

`measure` trains LoRA twice (two seeds), plants regressions (one adapter's weights scaled in steps),
and measures all on 500 questions of ARC-Easy and 500 paragraphs of WikiText-2: a quarter of an hour
on two cores. --mirror is laid out as the Hub. `simulate` draws comparisons from those per-sample
scores and puts each before the gate: another quarter. Writes FILE.json and a table beside it.

No difference: scores of the two seeds, each sample's pair swapped at random, so that the true
difference is zero while samples differ as two trainings do. Planted: right answers made wrong at a
rate, log-likelihoods raised, or the scaled adapters as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness import stats
from harness.results import gate, store
from harness.results.comparison import margin
from harness.results.paired_differences import Evidence
from harness.results.policy import Check, Rule
from harness.stats.metric_summary import Pooled
from harness.system.environment import environment

SIZES = (100, 300, 1000)
SCALES = (4, 8)
"""Factors on the trained adapter's weights."""
TEXTS = QUESTIONS = 500
"""The pools. Comparisons draw from them with replacement, as if they were all that can be asked."""
EXPERIMENT = """\
name: gate-calibration
model: smollm2-135m
data: {train: support, validation: 0.1}
budget: {steps: 12, batch: 4, max_length: 256, precision: float32}
methods:
  - base
  - {name: lora, r: 16, alpha: 32, lr: 1.0e-3}
seeds: [0, 1]
suites: [questions, texts]
"""
QUESTIONS_SUITE = f"""\
name: questions
version: 1
ask: lm-eval
tasks: [arc_easy]
num_fewshot: 0
limit: {QUESTIONS}
"""
TEXTS_SUITE = "name: texts\nversion: 1\nask: perplexity\ndata: texts.jsonl\n"


# measuring


def measure(mirror: Path, out: Path) -> None:
    """Train, plant, and measure everything into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "experiment.yaml").write_text(EXPERIMENT)
    (out / "questions.yaml").write_text(QUESTIONS_SUITE)
    (out / "texts.yaml").write_text(TEXTS_SUITE)
    lines = [json.dumps({"id": f"p{i}", "text": text}) for i, text in enumerate(paragraphs(mirror))]
    (out / "texts.jsonl").write_text("\n".join(lines) + "\n")
    results = out / "trained"
    harness("run", out / "experiment.yaml", "--mirror", mirror, "--out", results)
    trained = next(stored.id for stored in store.read_records([results]) if stored.label == "lora")
    for scale in SCALES:
        adapter = scaled(results / "artifacts" / trained, out / f"scaled-{scale}", scale)
        harness(
            "eval", "smollm2-135m", "--adapter", adapter, "--label", f"scaled-{scale}",
            "--suite", "questions", "--suite", "texts", "--suites", out, "--mirror", mirror,
            "--out", out / f"results-{scale}",
        )  # fmt: skip


def harness(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "harness.cli", *map(str, arguments)], check=True)


def paragraphs(mirror: Path) -> list[str]:
    """Paragraphs of WikiText-2's test part: 200 characters or more, the first 300 of each."""
    import datasets

    rows = datasets.load_dataset(str(mirror / "Salesforce/wikitext"), "wikitext-2-raw-v1")["test"]
    found = [row["text"].strip() for row in rows if len(row["text"].strip()) >= 200]
    return [text[:300].rsplit(" ", 1)[0] for text in found[:TEXTS]]


def scaled(source: Path, target: Path, scale: float) -> Path:
    """A copy of an adapter with its second factors times `scale`."""
    from safetensors.torch import load_file, save_file

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copy(source / "adapter_config.json", target)
    weights = load_file(source / "adapter_model.safetensors")
    changed = {k: v * scale if "lora_B" in k else v for k, v in weights.items()}
    save_file(changed, target / "adapter_model.safetensors", metadata={"format": "pt"})
    return target


# reading


@dataclass(frozen=True)
class Family:
    """One kind of metric, the rule that holds it, and what peers' threshold would be."""

    kind: stats.Kind
    better: bool
    strict: Mapping[str, Any]
    """A rule without a margin."""
    lenient: Mapping[str, Any]
    """The default policy's."""


FAMILIES = {
    "accuracy": Family("share", True, {"max_drop": 0.0}, {"max_drop": 0.02}),
    "probability": Family("mean", True, {"max_drop": 0.0}, {"max_drop": "5%"}),
    "perplexity": Family("exp_ratio", False, {"max_increase": 0.0}, {"max_increase": "5%"}),
}
Scores = np.ndarray
"""(samples, 2): a score and its denominator."""


def scores_of(folders: Sequence[Path]) -> dict[str, dict[str, Scores]]:
    """Model -> family -> scores, samples in one order."""
    stored = store.read_records(folders)
    read = store.rows_reader(stored)
    found: dict[str, dict[str, Scores]] = {}
    for one in stored:
        name = one.label
        name = f"{name}-s{one.data['plan']['seed']}" if name == "lora" else name
        questions = sorted(read(one.data, "questions"), key=lambda row: row["id"])
        texts = sorted(read(one.data, "texts"), key=lambda row: row["id"])
        found[name] = {
            "accuracy": np.array([[row["scores"]["acc"], 1.0] for row in questions]),
            "probability": np.array([[right_probability(row), 1.0] for row in questions]),
            "perplexity": np.array([[r["scores"]["nll"], r["scores"]["tokens"]] for r in texts]),
        }
    return found


def right_probability(row: Mapping[str, Any]) -> float:
    """Of the right choice, among the choices."""
    likely = np.exp(np.array(row["logprobs"]) - max(row["logprobs"]))
    return float(likely[int(row["reference"])] / likely.sum())


# simulating


def as_it_is(scores: Scores, rng: np.random.Generator) -> Scores:
    return scores


def wrong(share: float, scores: Scores, rng: np.random.Generator) -> Scores:
    """Right answers made wrong, `share` of all answers."""
    lost = rng.random(len(scores)) < share / max(scores[:, 0].mean(), share)
    return np.column_stack([np.where(lost, 0.0, scores[:, 0]), scores[:, 1]])


def risen(share: float, scores: Scores, rng: np.random.Generator) -> Scores:
    """Perplexity raised by `share`: every token's log-likelihood falls alike."""
    return np.column_stack([scores[:, 0] + math.log1p(share) * scores[:, 1], scores[:, 1]])


def fallen(share: float, scores: Scores, rng: np.random.Generator) -> Scores:
    """Each score lower by `share` of itself."""
    return np.column_stack([scores[:, 0] * (1 - share), scores[:, 1]])


@dataclass(frozen=True)
class Draws:
    """Where comparisons come from: two sides of a pool of samples."""

    a: Scores
    b: Scores
    swap: bool
    """Whether each sample's pair is swapped at random, which makes the true difference zero."""
    plant: Callable[[Scores, np.random.Generator], Scores] = as_it_is
    paired: bool = True

    def one(self, n: int, rng: np.random.Generator) -> tuple[Scores, Scores]:
        """`n` samples of both sides; of other samples where they are not paired."""
        mine = rng.integers(0, len(self.a), n)
        theirs = mine if self.paired else rng.integers(0, len(self.a), n)
        a, b = self.a[mine], self.b[theirs]
        if self.swap:
            flip = rng.random((n, 1)) < 0.5
            other = self.b[mine], self.a[theirs]
            a, b = np.where(flip, other[0], a), np.where(flip, other[1], b)
        return self.plant(a, rng), b


def verdicts(family: Family, draws: Draws, n: int, times: int, seed: int) -> dict[str, int]:
    """Out of `times`: stopped by each rule, not passed by each, stopped by peers' threshold."""
    rng = np.random.default_rng(seed)
    found = dict.fromkeys(("fail", "fail_default", "block_default", "naive", "naive_any"), 0)
    for _ in range(times):
        a, b = draws.one(n, rng)
        evidence = Evidence(family.kind, family.better, pooled(a), pooled(b), 0.95)
        strict, lenient = (judged(rule, evidence) for rule in (family.strict, family.lenient))
        found["fail"] += strict == "fail"
        found["fail_default"] += lenient == "fail"
        found["block_default"] += lenient != "pass"
        worse = evidence.baseline - evidence.value
        worse = worse if family.better else -worse
        found["naive"] += worse > margin(evidence)
        found["naive_any"] += worse > 0
    return found


def judged(limits: Mapping[str, Any], evidence: Evidence) -> str:
    check = Check(Rule(metric="q.x", **limits), "q", "x", ())
    return gate.corrected([gate.assess_evidence(check, evidence)], 0.95, holm=True)[0].verdict


def pooled(scores: Scores) -> Pooled:
    ids = [str(i) for i in range(len(scores))]
    return Pooled(ids, [scores[:, 0].tolist()], [scores[:, 1].tolist()], None)


def families_together(pools: Mapping[str, Draws], n: int, times: int, seed: int) -> int:
    """Gates with one strict rule per family, Holm over the three: how many fail."""
    rng = np.random.default_rng(seed)
    failed = 0
    for _ in range(times):
        findings = []
        for name, family in FAMILIES.items():
            a, b = pools[name].one(n, rng)
            evidence = Evidence(family.kind, family.better, pooled(a), pooled(b), 0.95)
            check = Check(Rule(metric="q.x", **family.strict), "q", "x", ())
            findings.append(gate.assess_evidence(check, evidence))
        failed += any(f.verdict == "fail" for f in gate.corrected(findings, 0.95, holm=True))
    return failed


PLANTED = {
    "accuracy": ("5 points of right answers made wrong", partial(wrong, 0.05)),
    "probability": ("every probability 10 % lower", partial(fallen, 0.10)),
    "perplexity": ("perplexity 10 % higher", partial(risen, 0.10)),
}


def simulate(out: Path, to: Path, times: int) -> None:
    """All scenarios; writes `to` and a Markdown table beside it."""
    models = scores_of([out / "trained"]) | {
        name: scores
        for scale in SCALES
        for name, scores in scores_of([out / f"results-{scale}"]).items()
        if name.startswith("scaled")
    }
    told: dict[str, Any] = {
        "environment": environment(),
        "gates": times,
        "figures": {
            model: {name: figure(FAMILIES[name], s) for name, s in of.items()}
            for model, of in models.items()
        },
        "scenarios": [],
    }
    together = {
        name: Draws(models["lora-s0"][name], models["lora-s1"][name], swap=True)
        for name in FAMILIES
    }
    tasks = [(*scenario, n) for scenario in scenarios(models, times) for n in SIZES]
    with ProcessPoolExecutor() as pool:
        for row in pool.map(scenario_row, tasks):
            told["scenarios"].append(row)
            print(line(row), flush=True)
        for row in pool.map(partial(holm_row, together, times), SIZES):
            told["scenarios"].append(row)
            print(line(row), flush=True)
    store.write_json(to, told)
    store.write_text(to.with_suffix(".md"), markdown(told))


def scenarios(
    models: Mapping[str, Mapping[str, Scores]], times: int
) -> Iterator[tuple[str, str, Draws, int]]:
    """(family, what happens, where from, gates)"""
    for name in FAMILIES:
        one, two = models["lora-s0"][name], models["lora-s1"][name]
        words, plant = PLANTED[name]
        yield name, "no difference: two seeds", Draws(one, two, True), times
        yield name, "no difference: the same model", Draws(one, one, False), times // 10
        unpaired = Draws(one, two, True, paired=False)
        yield name, "no difference, not paired", unpaired, times // 4
        yield name, words, Draws(one, two, True, plant), times // 4
        unpaired = Draws(one, two, True, plant, paired=False)
        yield name, f"{words}, not paired", unpaired, times // 4
        for scale in SCALES:
            worse = models[f"scaled-{scale}"][name]
            yield name, f"adapter times {scale}", Draws(worse, one, False), times // 4


def scenario_row(task: tuple[str, str, Draws, int, int]) -> dict[str, Any]:
    name, words, draws, gates, n = task
    found = verdicts(FAMILIES[name], draws, n, gates, seed=n)
    told = {"family": name, "scenario": words, "n": n, "gates": gates}
    return told | shares(found, gates)


def holm_row(pools: Mapping[str, Draws], times: int, n: int) -> dict[str, Any]:
    failed = families_together(pools, n, times, seed=n)
    told = {"family": "all three, Holm", "scenario": "no difference: two seeds", "n": n}
    return told | {"gates": times} | shares({"fail": failed}, times)


def figure(family: Family, scores: Scores) -> float:
    per = scores[:, 1] if family.kind == "exp_ratio" else None
    return stats.point_estimate(family.kind, scores[:, 0], per)


def shares(found: Mapping[str, int], gates: int) -> dict[str, Any]:
    """Each count as a share with its exact 95 % interval."""
    return {
        key: {"share": count / gates, "interval": stats.clopper_pearson(count, gates)}
        for key, count in found.items()
    }


COLUMNS = {
    "fail": "fails, no margin",
    "fail_default": "fails, default margin",
    "block_default": "does not pass, default margin",
    "naive": "mean beyond the default margin",
    "naive_any": "mean worse at all",
}


def line(row: Mapping[str, Any]) -> str:
    parts = [f"{COLUMNS[key]} {percent(row[key])}" for key in COLUMNS if key in row]
    return f"{row['family']}, {row['scenario']}, n {row['n']}: {'; '.join(parts)}"


def percent(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return f"{100 * one['share']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def markdown(told: Mapping[str, Any]) -> str:
    rows = [["metric", "scenario", "n", *COLUMNS.values()]]
    rows.append(["---"] * len(rows[0]))
    rows += [
        [row["family"], row["scenario"], str(row["n"])]
        + [percent(row[key]) if key in row else "" for key in COLUMNS]
        for row in told["scenarios"]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "simulate"])
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=Path("gate_calibration.json"))
    parser.add_argument("--gates", type=int, default=2000)
    arguments = parser.parse_args()
    if arguments.what == "measure":
        measure(arguments.mirror.resolve(), arguments.out.resolve())
    else:
        simulate(arguments.out, arguments.to, arguments.gates)


if __name__ == "__main__":
    main()
