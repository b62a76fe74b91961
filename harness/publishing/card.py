"""The model card: what was trained, what was measured with which certainty, and what to doubt.

Everything in it follows from the record, the base's record and the publication, so that it can be
written again and held against what a folder says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.publishing.publication import RESULTS, Publication
from harness.record import MetricSection, Record, SuiteSection
from harness.results.cost import cost
from harness.results.groups import base_id, findings
from harness.results.store import label, suites

MOST_ROWS = 16
"""Metrics of a suite that the card shows; the others are in the record."""
LIBRARIES = {"adapter": "peft", "weights": "transformers", "merged": "transformers"}

LIMITS = (
    "Intervals are of 95 % and over the samples of a suite; they do not hold what another training "
    "with another seed would give.",
    "The figures were measured by whoever published this model. Nobody else has confirmed them "
    "because of this card: `harness verify` recomputes them from the samples, and `--ask` asks the "
    "model again.",
    "Suites differ between versions and limits: compare figures of one suite hash alone, and not "
    "with figures of other tools under the same name.",
)


def text(publication: Publication, record: Record, base: Record | None) -> str:
    """The whole README.md."""
    from huggingface_hub import ModelCard

    body = "\n\n".join(_sections(publication, record, base))
    return str(ModelCard(f"---\n{_metadata(publication, record).to_yaml()}\n---\n\n{body}\n"))


def _metadata(publication: Publication, record: Record) -> Any:
    """The card's front matter, by huggingface_hub's own classes."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=suite,
            dataset_name=f"finetune-harness suite {suite}, version {section.get('version')}",
            dataset_args={"hash": section["hash"]},
            metric_type=name,
            metric_name=f"{suite}.{name}",
            metric_value=metric["value"],
        )
        for suite, section in suites(record).items()
        for name, metric in _headline(section)
    ]
    licence = publication.license
    return ModelCardData(
        base_model=publication.base_hub_id,
        eval_results=results or None,
        library_name=LIBRARIES[publication.made],
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        model_name=publication.name.rpartition("/")[2],
        pipeline_tag="text-generation",
        tags=["finetune-harness", record["plan"]["method"]],
    )


def _headline(section: SuiteSection) -> list[tuple[str, MetricSection]]:
    """A suite's first figure."""
    return [(n, m) for n, m in section["metrics"].items() if m["value"] is not None][:1]


def _sections(publication: Publication, record: Record, base: Record | None) -> Iterator[str]:
    yield f"# {plain(publication.name)}"
    yield _summary(publication, record)
    yield "## Results"
    for suite, section in suites(record).items():
        yield _suite(suite, section, suites(base).get(suite) if base else None)
    yield "## Forgetting"
    yield _forgetting(record)
    yield "## Training"
    yield _training(publication, record)
    yield "## Hardware and software"
    yield _hardware(record)
    yield "## Warnings and health checks"
    yield _listed([*findings(record), *record["warnings"]]) or "None."
    yield "## Use"
    yield _use(publication, record)
    yield "## Check and reproduce"
    yield _reproduce(publication, record)
    yield "## Limits"
    yield _listed([*LIMITS, *_doubts(publication, record)], escaped=True)
    yield "## Licence"
    yield _licence(publication)


def _summary(publication: Publication, record: Record) -> str:
    plan = record["plan"]
    base = publication.base_hub_id or plan["model"]["name"]
    data = (plan.get("data") or {}).get("name")
    on = f" on the data `{plain(data)}`" if data else ""
    kind = {"adapter": "An adapter for", "weights": "Weights of", "merged": "Merged weights of"}
    return (
        f"{kind[publication.made]} `{plain(base)}`, trained with `{plain(plan['method'])}`{on}, and"
        " measured by finetune-harness beside the untouched base on the same samples."
    )


# Results


def _suite(name: str, section: SuiteSection, base: SuiteSection | None) -> str:
    shown = [(metric, m) for metric, m in section["metrics"].items() if _is_shown(m)]
    lines = [f"### {plain(name)}", ""]
    lines += [
        "| metric | value | base | difference to the base | samples |",
        "|---|---|---|---|---|",
    ]
    for metric, m in shown[:MOST_ROWS]:
        theirs = base["metrics"].get(metric) if base else None
        arrow = "↑" if m["higher_is_better"] else "↓"
        cells = (
            f"{plain(metric)} {arrow}",
            _with_interval(m["value"], m["ci_low"], m["ci_high"]),
            figure(theirs["value"] if theirs else None),
            _with_interval(m["delta"], m["delta_ci_low"], m["delta_ci_high"], sign=True),
            str(m["n"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    left = len(section["metrics"]) - len(shown[:MOST_ROWS])
    if left:
        lines += ["", f"{left} more figures of this suite are in `{RESULTS}/cells/`."]
    told = (section.get("notes") or {}).get("label")
    if told:
        lines += ["", f"Read with: {plain(told)}."]
    lines += ["", f"Suite version {section.get('version')}, hash `{section['hash'][:12]}`."]
    return "\n".join(lines)


def _is_shown(metric: MetricSection) -> bool:
    """Figures of single domains are too many for a card."""
    return not isinstance(metric["estimator"]["where"], Mapping)


def _forgetting(record: Record) -> str:
    """What of the base's right answers is still right, and which answers changed."""
    lines = []
    for suite, section in suites(record).items():
        for name, metric in section["metrics"].items():
            title = f"`{plain(suite)}.{plain(name)}`"
            if metric["estimator"]["kind"] == "retained" and metric["value"] is not None:
                share = _with_interval(metric["value"], metric["ci_low"], metric["ci_high"])
                lines.append(f"{title}: {share} of what the base had right is still right.")
            gained, lost = metric.get("gained"), metric.get("lost")
            if gained is not None and lost is not None and _is_shown(metric):
                lines.append(f"{title}: {lost} answers lost, {gained} gained against the base.")
    more = (
        [f"{len(lines) - MOST_ROWS} more are in `{RESULTS}/cells/`."] if lines[MOST_ROWS:] else []
    )
    return _listed([*lines[:MOST_ROWS], *more], escaped=True) or "No suite measured it."


# Training


def _training(publication: Publication, record: Record) -> str:
    plan, training = record["plan"], record["training"] or {}
    data, spent = plan.get("data") or {}, cost([record])
    rows = {
        "method": f"`{plain(plan['method'])}` (row `{plain(label(plan))}`)",
        "options": _code(plan["options"]),
        "base model": plain(_base_text(publication, record)),
        "data": plain(f"{data.get('name')}, {data.get('rows')} rows, sha256 {data.get('hash')}"),
        "budget": _code(plan.get("budget")),
        "seed": str(plan["seed"]),
        "tokens": figure(training.get("tokens")),
        "trainable parameters": figure(spent["trainable_parameters"]),
        "training steps": _seconds(spent["train_seconds"]),
        "artifact": _bytes(spent["artifact_bytes"]),
        "published as": _made(publication),
    }
    return _table(rows)


def _base_text(publication: Publication, record: Record) -> str:
    model = record["plan"]["model"]
    content = model.get("content_hash") or model.get("revision")
    hub = f" ({publication.base_hub_id})" if publication.base_hub_id else ""
    return f"{model['name']}{hub}, content {content}"


def _made(publication: Publication) -> str:
    into = f", {plain(publication.merged_into)}" if publication.merged_into else ""
    return f"{publication.made}{into}, {publication.precision}"


def _hardware(record: Record) -> str:
    found, spent = record["environment"], cost([record])
    gpu = found.get("gpu")
    kind = {"cuda": "peak GPU memory", "host": "peak host memory", None: "peak memory"}
    rows = {
        "processor": plain(f"{found.get('cpu')}, {found.get('cores')} cores"),
        "GPU": plain(gpu["name"]) if gpu else "none",
        "memory": _bytes(found.get("memory_bytes")),
        kind[spent["peak_memory_kind"]]: _bytes(spent["peak_memory_bytes"]),
        "evaluation": _seconds(spent["evaluation_seconds"]),
        "Python": plain(found.get("python")),
        "packages": _code({k: v for k, v in found.get("packages", {}).items() if v}),
    }
    return _table(rows)


# Use, reproduction, limits


def _use(publication: Publication, record: Record) -> str:
    base = publication.base_hub_id or record["plan"]["model"]["name"]
    lines = ["```python", "from transformers import AutoModelForCausalLM, AutoTokenizer"]
    name = publication.name
    lines.append(f"tokenizer = AutoTokenizer.from_pretrained({name!r})")
    if publication.made != "adapter":
        lines.append(f"model = AutoModelForCausalLM.from_pretrained({name!r})")
        return "\n".join([*lines, "```"])
    lines.insert(1, "from peft import PeftModel")
    quantization = publication.artifact.get("quantization")
    extra = ""
    if quantization:
        lines.insert(1, "from transformers import BitsAndBytesConfig")
        lines.append(f"config = BitsAndBytesConfig(**{json.dumps(quantization)})")
        extra = ", quantization_config=config"
    lines.append(f"base = AutoModelForCausalLM.from_pretrained({base!r}{extra})")
    lines.append(f"model = PeftModel.from_pretrained(base, {name!r})")
    return "\n".join([*lines, "```"])


def _reproduce(publication: Publication, record: Record) -> str:
    plan = record["plan"]
    told = (
        "Recompute every figure here from the samples, then ask 20 of the questions again:"
        if publication.samples
        else "The samples are not published: no reader can recompute the figures of this card."
    )
    commands = [f"pip install finetune-harness=={publication.harness}"]
    if publication.samples:
        commands += ["harness verify FOLDER", "harness verify FOLDER --ask 20"]
    experiment = {
        "name": plan.get("experiment"),
        "model": plan["model"]["name"],
        "data": {"train": (plan.get("data") or {}).get("source")},
        "budget": plan.get("budget"),
        "methods": [{"name": plan["method"], **plan["options"]}],
        "seeds": [plan["seed"]],
        "suites": plan.get("suites"),
    }
    return "\n".join(
        [
            told,
            "",
            *(f"    {command}" for command in commands),
            "",
            "Trained and measured by `harness run` on an experiment with these keys; the settings "
            f"of each suite are its `parts` in `{RESULTS}/cells/{plain(record['id'])}.json`:",
            "",
            "```json",
            fenced(json.dumps(experiment, indent=2, ensure_ascii=False)),
            "```",
        ]
    )


def _doubts(publication: Publication, record: Record) -> Iterator[str]:
    few = min((m["n"] for s in suites(record).values() for m in s["metrics"].values()), default=0)
    if few < 100:
        yield f"The smallest group of samples behind a figure has {few}: intervals are wide."
    if base_id(record) is None:
        yield "There is no untouched base beside it, so that no difference is told."
    if publication.made == "merged":
        yield (
            "The figures were measured on the adapter before it was merged; `export.json` says how "
            "far the merged weights are from that."
        )
    if publication.base_hub_id is None:
        yield "The base model has no id on the Hub that is known here."
    yield "What the training data may be used for is not known to the harness."


def _licence(publication: Publication) -> str:
    licence = publication.license
    name = f" ({plain(licence.name)}, {plain(licence.link)})" if licence.name else ""
    return f"`{licence.id}`{name}: {plain(licence.origin)}."


# Text


def figure(value: float | int | None, *, sign: bool = False) -> str:
    """A number with four digits that count; a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, int) and not sign:
        return f"{value:,}"
    return f"{value:+.4g}" if sign else f"{value:.4g}"


def _with_interval(
    value: float | None, low: float | None, high: float | None, *, sign: bool = False
) -> str:
    if value is None or low is None or high is None:
        return figure(value, sign=sign)
    return f"{figure(value, sign=sign)} [{figure(low)}, {figure(high)}]"


def plain(value: object) -> str:
    """A text in a line of Markdown that it cannot leave: no HTML, no table cell, no new line."""
    told = " ".join(str(value).split())
    told = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", told) if re.search(r"[<>|\[\]`]", told) else told
    told = told.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    told = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in told)
    return told if len(told) <= 500 else f"{told[:500]} ..."


def fenced(value: str) -> str:
    """A text that cannot end the fenced block it stands in."""
    printable = (c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in value)
    return "".join(printable).replace("```", "'''")


def _code(value: object) -> str:
    told = json.dumps(value, ensure_ascii=False, sort_keys=True).replace("`", "'")
    return f"`{told.replace('|', '/')}`"


def _listed(lines: Iterable[str], *, escaped: bool = False) -> str:
    return "\n".join(f"- {line if escaped else plain(line)}" for line in dict.fromkeys(lines))


def _table(rows: Mapping[str, str]) -> str:
    head: Sequence[str] = ["| | |", "|---|---|"]
    return "\n".join([*head, *(f"| {name} | {told} |" for name, told in rows.items())])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _bytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.1f} MiB"
