"""Tasks of EleutherAI's lm-eval, unchanged, on our own scoring."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.asks import Question
from harness.child import command
from harness.errors import UserError, nearest
from harness.suite import Suite
from harness.types import Metric, SuiteResult

HEADLINE = ("acc", "exact_match", "f1", "mc2")
"""Metrics that may stand under the bare name of a task, the first that it has."""


def ask(suite: Suite, model: Any) -> Question:
    """Nothing for the shared passes: lm-eval makes its own requests."""
    return Question()


def metrics(suite: Suite) -> list[str] | None:
    """Only the loaded tasks tell."""
    return None


def answer(suite: Suite, question: Question, tools: Any) -> SuiteResult:
    """Runs the tasks and keeps every sample by its `doc_hash`."""
    import lm_eval

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    tasks = load_tasks(suite)
    result = lm_eval.evaluate(
        lm=_lm(tools),
        task_dict=tasks,
        limit=suite["limit"],
        bootstrap_iters=0,
        apply_chat_template=bool(suite["apply_chat_template"]),
    )
    rows: list[dict[str, Any]] = []
    metrics: list[Metric] = []
    groups = _groups(tasks)
    for task, every in result["samples"].items():
        # A task may read its answers through several filters; the first is the one it means.
        samples = [sample for sample in every if sample["filter"] == every[0]["filter"]]
        named = _metric_names(task, samples, tasks["tasks"][task])
        inside = [group for group, members in groups.items() if task in members]
        rows += _rows(task, samples, named, inside)
        metrics += [_metric(task, name, key, higher) for key, (name, higher) in named.items()]
    return SuiteResult(rows, [*map(_group_metric, groups), *metrics])


def check(suites: Sequence[Suite]) -> None:
    """Find out before any training whether the tasks of suites can be loaded, data and all.

    In a child process, for this one does not import lm-eval. Raises UserError with its reason.
    """
    import subprocess

    from pydantic import TypeAdapter

    asked = [s for s in suites if s["ask"] == "lm-eval" and not _is_own(s)]
    if not asked:
        return
    done = subprocess.run(
        command("harness.asks.lm_eval"),
        input=TypeAdapter(list[Suite]).dump_json(asked),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UserError(lines[-1])


def _is_own(suite: Suite) -> bool:
    """Whether every task has a file in the suite's own folder, and so needs no Hub."""
    files = sorted(Path(suite.include_path).rglob("*.yaml")) if suite.include_path else []
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return all(re.search(rf"^task:\s*{re.escape(name)}\s*$", text, re.M) for name in suite["tasks"])


def load_tasks(suite: Suite) -> Any:
    """lm-eval's task objects; UserError with the nearest names where there is no such task."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=suite.include_path, include_defaults=False)
    strange = set(suite["tasks"]) - set(own.task_index)
    # lm-eval's own index has 14,000 names and takes seconds, so it is read only when needed.
    manager = TaskManager(include_path=suite.include_path) if strange else own
    for name in suite["tasks"]:
        if name not in manager.task_index:
            raise UserError(f"{suite.file}: no lm-eval task '{name}': {_near(name, manager)}")
    if suite.mirror:
        _use_mirror(Path(suite.mirror))
    try:
        tasks = manager.load(list(suite["tasks"]))
    except Exception as error:
        raise UserError(
            f"{suite.file}: the tasks {', '.join(suite['tasks'])} cannot be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); without the Hub give "
            "--mirror DIR"
        ) from error
    if suite["num_fewshot"] is not None:
        for task in tasks["tasks"].values():
            task.set_config(key="num_fewshot", value=suite["num_fewshot"])
    return tasks


def _near(name: str, manager: Any) -> str:
    import difflib

    close = difflib.get_close_matches(name, manager.task_index, n=5, cutoff=0.5)
    return nearest(name, close) if close else f"lm-eval knows {len(manager.task_index)} others"


def _use_mirror(mirror: Path) -> None:
    """Let `datasets.load_dataset("org/name", ...)` find `mirror/org/name` first."""
    import datasets

    if getattr(datasets.load_dataset, "mirror", None) == mirror:
        return
    original = getattr(datasets.load_dataset, "original", datasets.load_dataset)

    def load_dataset(path: str, *args: Any, **kwargs: Any) -> Any:
        local = mirror / str(path)
        return original(str(local) if local.is_dir() else path, *args, **kwargs)

    load_dataset.mirror = mirror  # type: ignore[attr-defined]
    load_dataset.original = original  # type: ignore[attr-defined]
    datasets.load_dataset = load_dataset


def _lm(tools: Any) -> Any:
    """An lm-eval `LM` that answers with our shared-prefix scoring."""
    from lm_eval.api.model import TemplateLM

    model = tools.model

    class SharedPrefixLM(TemplateLM):
        tokenizer = model.tokenizer
        tokenizer_name = model.artifact.base.name.replace("/", "__")

        @property
        def eot_token_id(self) -> int:
            return int(model.tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            return int(model.prefix_token)

        @property
        def max_length(self) -> int:
            return int(model.max_length)

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
        ) -> list[int]:
            # As lm-eval's HFLM: special tokens by the tokenizer's own default, unless the
            # string (a rendered chat template) begins with the BOS token already.
            bos = model.tokenizer.bos_token
            if add_special_tokens is None and bos and string.startswith(bos):
                add_special_tokens = False
            extra = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
            return list(model.tokenizer(string, **extra)["input_ids"])

        def _loglikelihood_tokens(
            self, requests: Sequence[Any], **kwargs: Any
        ) -> list[tuple[float, bool]]:
            pairs = [(context, continuation) for _, context, continuation in requests]
            scores = model.loglikelihood(pairs, tools.progress)
            return [(score.logprob, score.greedy) for score in scores]

        def loglikelihood(
            self, requests: Sequence[Any], disable_tqdm: bool = True
        ) -> list[tuple[float, bool]]:
            return list(super().loglikelihood(requests, disable_tqdm=True))

        def loglikelihood_rolling(
            self, requests: Sequence[Any], disable_tqdm: bool = True
        ) -> list[float]:
            from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

            totals = []
            for (text,) in (request.args for request in requests):
                windows = get_rolling_token_windows(
                    token_list=self.tok_encode(text),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                pairs = [make_disjoint_window(window) for window in windows]
                totals.append(sum(score.logprob for score in model.loglikelihood(pairs)))
            return totals

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
            answers = []
            for context, settings in (request.args for request in requests):
                if settings.get("do_sample"):
                    raise UserError("a task asks for sampling; only greedy decoding is supported")
                (out,) = model.generate(
                    [self.tok_encode(context)],
                    max_new_tokens=int(settings.get("max_gen_toks", 256)),
                )
                answers.append(_until(model.tokenizer.decode(out.ids), settings.get("until")))
            return answers

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            from harness.tokens import render

            return render(
                model.tokenizer,
                chat_history,
                model.chat_template,
                generation_prompt=add_generation_prompt,
            )

    return SharedPrefixLM()


def _until(text: str, stops: str | Sequence[str] | None) -> str:
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.split(stop)[0] if stop else text
    return text


def _metric_names(
    task: str, samples: Sequence[Mapping[str, Any]], loaded: Any
) -> dict[str, tuple[str, bool]]:
    """lm-eval's metric -> our metric's name and whether higher is better.

    The headline has the task's name alone: `forgetting.arc_easy` is its accuracy.
    """
    keys = [key for key in samples[0]["metrics"] if isinstance(samples[0][key], (int, float, bool))]
    better = loaded.higher_is_better()
    headline = next((key for key in HEADLINE if key in keys), keys[0] if keys else None)
    return {
        key: (task if key == headline else f"{task}.{key}", bool(better.get(key, True)))
        for key in keys
    }


def _metric(task: str, name: str, key: str, higher: bool) -> Metric:
    kind: Any = "share" if key in {"acc", "acc_norm", "exact_match"} else "mean"
    return Metric(name, higher, kind, score=key, where=task)


def _groups(tasks: Any) -> dict[str, set[str]]:
    """lm-eval's groups (`mmlu` ...) with the names of all tasks below each."""
    return {
        name: {task.task_name for task in group.get_all_tasks()}
        for name, group in tasks["groups"].items()
    }


def _group_metric(group: str) -> Metric:
    """The group's accuracy over all its questions (lm-eval's size-weighted mean)."""
    return Metric(group, True, "share", score=group)


def _rows(
    task: str,
    samples: Sequence[Mapping[str, Any]],
    named: Mapping[str, tuple[str, bool]],
    groups: Sequence[str],
) -> list[dict[str, Any]]:
    """Sample rows; a question that a task has twice gets two ids."""
    headline = next((key for key, (name, _) in named.items() if name == task), None)
    met: dict[str, int] = {}
    rows = []
    for sample in samples:
        key = sample["doc_hash"]
        met[key] = met.get(key, 0) + 1
        row = _row(task, sample, named)
        row["id"] += f"-{met[key]}" if met[key] > 1 else ""
        if headline:
            row["scores"] |= dict.fromkeys(groups, row["scores"][headline])
        rows.append(row)
    return rows


def _row(task: str, sample: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{task}/{sample['doc_hash'][:16]}",
        "group": task,
        "prompt": sample["arguments"][0][0],
        "reference": sample["target"],
        "output": [reply[0] for reply in sample["filtered_resps"]]
        if sample["filtered_resps"] and isinstance(sample["filtered_resps"][0], (list, tuple))
        else sample["filtered_resps"],
        "doc_hash": sample["doc_hash"],
        "scores": {key: float(sample[key]) for key in named},
    }


def main() -> int:
    """Load the tasks of the suites on standard input (JSON); 2 and one line where one fails."""
    from pydantic import TypeAdapter

    try:
        for suite in TypeAdapter(list[Suite]).validate_json(sys.stdin.read()):
            load_tasks(suite)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return UserError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
