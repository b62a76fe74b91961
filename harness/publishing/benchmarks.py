"""`.eval_results/*.yaml`: figures that the Hub lists on the leaderboards of benchmarks.

The form is the Hub's (https://huggingface.co/docs/hub/eval-results), written by huggingface_hub's
own classes. A `verifyToken` is the Hub's to give, and is never written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from harness.errors import UserError, nearest
from harness.publishing.publication import Benchmark, Publication
from harness.record import MetricSection, Record
from harness.results.store import suites


class Registered(NamedTuple):
    """A benchmark that the Hub keeps a leaderboard of."""

    dataset: str
    task_id: str
    questions: int
    """Of the whole benchmark; a figure of fewer is not the benchmark's."""


REGISTERED: Mapping[str, Registered] = {
    "gsm8k": Registered("openai/gsm8k", "gsm8k", 1319),
    "gsm8k_cot": Registered("openai/gsm8k", "gsm8k", 1319),
    "gpqa_diamond_zeroshot": Registered("Idavidrein/gpqa", "gpqa_diamond", 198),
    "gpqa_diamond_cot_zeroshot": Registered("Idavidrein/gpqa", "gpqa_diamond", 198),
    "mmlu_pro": Registered("TIGER-Lab/MMLU-Pro", "mmlu_pro", 12032),
}
"""By the metric's name, which is that of lm-eval's task."""

_STATED = re.compile(r"([^=]+)=([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*):([\w./-]+)")


def chosen(record: Record, stated: Sequence[str]) -> tuple[Benchmark, ...]:
    """The registered benchmarks whose every question was asked, and those that a user names.

    `stated` are `suite.metric=owner/dataset:task_id`. Raises UserError for an unknown metric.
    """
    shares = dict(_shares(record))
    found = {}
    for name, metric in shares.items():
        known = REGISTERED.get(name.partition(".")[2])
        if known and metric["n"] == known.questions:
            found[known.dataset, known.task_id] = Benchmark(name, known.dataset, known.task_id)
    for text in stated:
        match = _STATED.fullmatch(text)
        if match is None:
            raise UserError(f"--benchmark {text}: write SUITE.METRIC=OWNER/DATASET:TASK_ID")
        metric_name, dataset, task_id = match.groups()
        if metric_name not in shares:
            raise UserError(
                f"--benchmark {text}: '{metric_name}' is no share of right answers of the cell: "
                f"{nearest(metric_name, shares)}"
            )
        found[dataset, task_id] = Benchmark(metric_name, dataset, task_id)
    return tuple(found.values())


def _shares(record: Record) -> Iterator[tuple[str, MetricSection]]:
    for suite, section in suites(record).items():
        for name, metric in section["metrics"].items():
            if metric["estimator"]["kind"] == "share" and metric["value"] is not None:
                yield f"{suite}.{name}", metric


def files(publication: Publication, record: Record) -> dict[str, str]:
    """The YAML files, by their names: a benchmark each, its value in per cent as the Hub has it."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    shares, by_file = dict(_shares(record)), {}
    for benchmark in publication.benchmarks:
        metric = shares[benchmark.metric]
        assert metric["value"] is not None
        entry = EvalResultEntry(
            dataset_id=benchmark.dataset,
            task_id=benchmark.task_id,
            value=round(100 * metric["value"], 6),
            date=publication.evaluated,
            source_url=publication.source_url,
            source_name="finetune-harness" if publication.source_url else None,
            notes=_notes(record, benchmark.metric, metric),
        )
        slug = re.sub(r"[^a-z0-9]+", "_", f"{benchmark.dataset}_{benchmark.task_id}".lower())
        entries = eval_result_entries_to_yaml([entry])
        text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)
        by_file[f".eval_results/{slug}.yaml"] = text
    return by_file


def _notes(record: Record, name: str, metric: MetricSection) -> str:
    """How it was asked, in a line."""
    suite = name.partition(".")[0]
    shots = (suites(record)[suite].get("notes") or {}).get("num_fewshot")
    told = shots.get(name.partition(".")[2]) if isinstance(shots, Mapping) else shots
    low, high = metric["ci_low"], metric["ci_high"]
    interval = (
        "" if low is None or high is None else f", 95% CI {100 * low:.2f} to {100 * high:.2f}"
    )
    few = "" if told is None else f"{told}-shot, "
    return f"{few}{metric['n']} questions{interval}, finetune-harness suite {suite}"
