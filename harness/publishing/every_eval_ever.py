"""Records of the Every Eval Ever schema (evaleval/every_eval_ever, version 0.3.0).

One aggregate file of every figure, and a file of instances: one for each sample of each figure that
is a share of right answers, for the schema wants to know of every instance whether it is right.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.publishing.publication import Publication
from harness.record import MetricSection, Record, SuiteSection
from harness.results.store import Rows, suites
from harness.stats import metric_summary

SCHEMA = "0.3.0"
HOME = "every_eval_ever"
"""The folder that stands for the root of a datastore."""
COLLECTION = "finetune-harness"


def files(publication: Publication, record: Record, rows: Mapping[str, Rows]) -> dict[str, str]:
    """The aggregate file and, with samples, the file of instances, by their names.

    `rows` are the samples of each suite; a suite that is not there has no instances.
    """
    developer, _, model = model_id(publication).partition("/")
    place = f"data/{COLLECTION}/{developer}/{model}/{_uuid(publication, record)}"
    instances = list(_instances(publication, record, rows))
    # ASCII alone: an answer may hold half of a surrogate pair, or what some take for a line's end
    text = "".join(json.dumps(one) + "\n" for one in instances)
    aggregate = _aggregate(publication, record)
    named = {}
    if instances:
        aggregate["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": f"{place}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(instances),
            "additional_details": {"instances": "of figures that are shares of right answers"},
        }
        named[f"{HOME}/{place}_samples.jsonl"] = text
    told = json.dumps(aggregate, indent=2) + "\n"
    return {f"{HOME}/{place}.json": told, **named}


def model_id(publication: Publication) -> str:
    """`owner/name`; `local` owns what is not on the Hub."""
    name = publication.name
    return name if "/" in name else f"local/{name}"


def _uuid(publication: Publication, record: Record) -> str:
    """A UUID of version 4's form that is the same for the same record and name."""
    told = json.dumps([publication.name, publication.published, record.get("sha256"), record["id"]])
    digits = hashlib.sha256(told.encode()).hexdigest()[:32]
    digits = f"{digits[:12]}4{digits[13:16]}{'89ab'[int(digits[16], 16) % 4]}{digits[17:]}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _evaluation_id(publication: Publication) -> str:
    return f"{COLLECTION}/{model_id(publication)}/{publication.published}"


def _aggregate(publication: Publication, record: Record) -> dict[str, Any]:
    owner = model_id(publication).partition("/")[0]
    packages = record["environment"].get("packages", {})
    plan = record["plan"]
    stamp = {"evaluation_timestamp": publication.evaluated} if publication.evaluated else {}
    return {
        "schema_version": SCHEMA,
        "evaluation_id": _evaluation_id(publication),
        **stamp,
        "retrieved_timestamp": str(publication.published),
        "source_metadata": {
            "source_name": "finetune-harness",
            "source_type": "evaluation_run",
            "source_organization_name": owner,
            "evaluator_relationship": "first_party",
            "additional_details": _texts({"cell": record["id"], "record": record.get("sha256")}),
        },
        "eval_library": {
            "name": "finetune-harness",
            "version": packages.get("finetune-harness") or "unknown",
            "additional_details": _texts(packages),
        },
        "model_info": {
            "name": model_id(publication).partition("/")[2],
            "id": model_id(publication),
            "developer": owner,
            "additional_details": _texts(
                {
                    "deployment_type": "self_deployed",
                    "model_availability": "open_weights" if "/" in publication.name else "unknown",
                    "base_model": publication.base_hub_id or plan["model"]["name"],
                    "method": plan["method"],
                    "precision": publication.precision,
                    "artifact": publication.made,
                }
            ),
        },
        "evaluation_results": [
            _result(publication, suite, name, section, metric)
            for suite, section in suites(record).items()
            for name, metric in section["metrics"].items()
            if metric["value"] is not None
        ],
    }


def _result(
    publication: Publication, suite: str, name: str, section: SuiteSection, metric: MetricSection
) -> dict[str, Any]:
    title, how = f"{suite}.{name}", metric["estimator"]
    low, high = metric_summary.bounds(how)
    delta = {
        "delta_to_base": metric["delta"],
        "delta_ci_low": metric["delta_ci_low"],
        "delta_ci_high": metric["delta_ci_high"],
        "left_out": metric.get("left_out"),
    }
    result: dict[str, Any] = {
        "evaluation_result_id": title,
        "evaluation_name": suite,
        "source_data": _source(publication, suite, title, section),
        "metric_config": {
            "metric_id": f"{COLLECTION}.{title}",
            "metric_name": name,
            "metric_kind": how["kind"],
            "lower_is_better": not metric["higher_is_better"],
            "score_type": "continuous",
            "min_score": "-Infinity" if low is None else low,
            "max_score": "Infinity" if high is None else high,
            "additional_details": _texts({**how, "judge": _judge(section)}),
        },
        "score_details": {
            "score": metric["value"],
            "details": _texts(delta),
            "uncertainty": _uncertainty(metric),
        },
    }
    decoding = (section.get("notes") or {}).get("decoding")
    if isinstance(decoding, Mapping) and decoding.get("greedy"):
        arguments = {"temperature": 0, "max_tokens": decoding["max_new_tokens"]}
        thought = (section.get("notes") or {}).get("reasoning")
        if thought is not None:
            arguments["reasoning"] = bool(thought.get("reasoned"))
        result["generation_config"] = {"generation_args": arguments}
    return result


def _judge(section: SuiteSection) -> str | None:
    judge = (section.get("notes") or {}).get("judge")
    return json.dumps(judge, sort_keys=True) if judge else None


def _source(
    publication: Publication, suite: str, title: str, section: SuiteSection
) -> dict[str, Any]:
    details = _texts(
        {
            "suite_hash": section["hash"],
            "suite_version": section.get("version"),
            "data_hash": section.get("data_hash"),
        }
    )
    for benchmark in publication.benchmarks:
        if benchmark.metric == title:
            return {
                "dataset_name": benchmark.task_id,
                "source_type": "hf_dataset",
                "hf_repo": benchmark.dataset,
                "additional_details": details,
            }
    return {"dataset_name": suite, "source_type": "other", "additional_details": details}


def _uncertainty(metric: MetricSection) -> dict[str, Any]:
    told: dict[str, Any] = {"num_samples": metric["n"]}
    if metric["stderr"] is not None:
        told["standard_error"] = {"value": metric["stderr"]}
    if metric["ci_low"] is not None and metric["ci_high"] is not None:
        told["confidence_interval"] = {
            "lower": metric["ci_low"],
            "upper": metric["ci_high"],
            "confidence_level": 0.95,
            "method": "wilson" if metric["estimator"]["kind"] == "share" else "bootstrap",
        }
    return told


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """The values that are known, as the schema wants them: texts."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in values.items()
        if value is not None
    }


# Instances


def _instances(
    publication: Publication, record: Record, rows: Mapping[str, Rows]
) -> Iterator[dict[str, Any]]:
    for suite, section in suites(record).items():
        for name, metric in section["metrics"].items():
            how = metric["estimator"]
            if how["kind"] != "share" or metric["value"] is None:
                continue
            table = metric_summary.scored(how, rows.get(suite, ()))
            for row in rows.get(suite, ()):
                if row["id"] in table:
                    score = table[row["id"]].score
                    yield _instance(publication, suite, f"{suite}.{name}", row, score)


def _instance(
    publication: Publication, suite: str, title: str, row: Mapping[str, Any], score: float
) -> dict[str, Any]:
    raw, choices = _question(row), row.get("choices")
    reference, answer = _reference(row), _answer(row)
    told = {
        "schema_version": SCHEMA,
        "evaluation_id": _evaluation_id(publication),
        "model_id": model_id(publication),
        "evaluation_name": suite,
        "evaluation_result_id": title,
        "sample_id": row["id"],
        "sample_hash": hashlib.sha256(
            (raw + "".join(reference)).encode("utf-8", "surrogatepass")
        ).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": raw, "reference": reference, **({"choices": choices} if choices else {})},
        "output": {
            "raw": [answer],
            **({"reasoning_trace": [row["reasoning"]]} if row.get("reasoning") else {}),
        },
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": answer,
                "extraction_method": "log-likelihood of the choices" if choices else "none",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": score, "is_correct": score == 1.0},
    }
    return told | ({"metadata": {"group": str(row["group"])}} if row.get("group") else {})


def _question(row: Mapping[str, Any]) -> str:
    """The prompt as a text; turns of a conversation each with who speaks."""
    prompt = row.get("prompt")
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
    return str(prompt or "")


def _reference(row: Mapping[str, Any]) -> list[str]:
    reference, choices = row.get("reference"), row.get("choices") or []
    if isinstance(reference, int) and 0 <= reference < len(choices):
        return [str(choices[reference])]
    if isinstance(reference, list):
        return [str(one) for one in reference]
    return [] if reference is None else [str(reference)]


def _answer(row: Mapping[str, Any]) -> str:
    output = row.get("output")
    return re.sub(r"\A\s+", "", str(output)) if row.get("choices") else str(output or "")
