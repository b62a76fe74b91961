"""Tasks of EleutherAI's lm-eval, unchanged, on our own scoring."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.api.model import Model
from harness.api.task import (
    Need,
    Requests,
    Resolver,
    Resources,
    Suite,
    SuiteExample,
    Task,
    TaskTools,
)
from harness.api.tools import Tools
from harness.config.strict_yaml import Located
from harness.evaluation.fingerprint import folder_digest
from harness.evaluation.tasks import reasoning
from harness.evaluation.tasks.lm_eval import example, task_files, tasks
from harness.evaluation.tasks.lm_eval.rescoring import rescored
from harness.evaluation.tasks.lm_eval.settings import LmEvalSettings
from harness.hookspecs import hookimpl
from harness.models import families
from harness.stats.answers import degenerate_answers
from harness.types import ModelRef, SuiteResult


class LmEval(Task[LmEvalSettings]):
    """Runs lm-eval's tasks; what they ask is known once lm-eval has loaded them."""

    name = "lm-eval"
    Settings = LmEvalSettings
    unscored = frozenset({"trust_task_code", "run_unsafe_code"})
    knows_samples = False

    def check(self, settings: LmEvalSettings, located: Located) -> None:
        """Tasks must be named."""
        if not settings.tasks:
            needed = "ask: lm-eval needs `tasks:`, a list of lm-eval's task names"
            raise located.error(needed, ("ask",))

    def resolve(self, settings: LmEvalSettings, resolver: Resolver) -> Resources:
        """The folder of task files; those of an installed plugin may run their code."""
        if settings.include_path is None:
            return Resources(trusted=settings.trust_task_code)
        folder, installed = resolver.folder(settings.include_path, "include_path")
        return Resources(folder=folder, trusted=settings.trust_task_code or installed)

    def dependencies(self, suite: Suite) -> Mapping[str, object]:
        """lm-eval's version, and the suite's own task files."""
        own = folder_digest(Path(suite.folder)) if suite.folder else None
        return {"lm_eval": version("lm_eval"), "tasks": own}

    def count(self, suite: Suite) -> int:
        """Questions of all tasks, under their limits; loads the tasks."""
        return sum(tasks.counts(suite, tasks.load_tasks(suite)).values())

    def applies_template(self, suite: Suite) -> bool:
        """Only where the suite sets it."""
        return bool(self.settings(suite).apply_chat_template)

    def needs(self, suite: Suite) -> frozenset[Need]:
        """Either; which of them is known once lm-eval has loaded the tasks."""
        return frozenset({"answers", "choices"})

    def check_context(self, suite: Suite, model: ModelRef) -> None:
        """The suite's own task files; lm-eval's own are known only once they are loaded."""
        own = self.settings(suite).max_gen_toks
        if own is not None:
            families.check_answers(model, own, "max_gen_toks", "set it to less")
            return
        for file, cap in task_files.caps(suite):
            fix = "give its `generation_kwargs` a smaller one"
            families.check_answers(model, cap, f"{file}: max_gen_toks", fix)

    def check_loading(self, suites: Sequence[Suite]) -> None:
        """Whether lm-eval loads the tasks, in a child process where they need more than files."""
        tasks.check(suites)

    def example(self, name: str) -> SuiteExample:
        """A task file of one's own, with its rows and the code that reads them."""
        return example.example(name)

    def data_hash(self, suite: Suite) -> str:
        """Of every question and example that the tasks ask, as loaded now."""
        return tasks.data_hash(suite)

    def requests(self, suite: Suite, model: Model) -> Requests:
        """Nothing for the shared passes: lm-eval makes its own requests."""
        return Requests()

    def score(self, suite: Suite, requests: Requests, tools: TaskTools) -> SuiteResult:
        """Runs the tasks; a row per question, by its `doc_hash`, with every log-probability."""
        import lm_eval

        from harness.evaluation.lm_eval_samples import rows
        from harness.evaluation.tasks.lm_eval.declared import declared, declared_groups, guard
        from harness.evaluation.tasks.lm_eval.model import shared_prefix_lm

        logging.getLogger("lm_eval").setLevel(logging.WARNING)
        settings, loaded = self.settings(suite), tasks.taken_tasks(suite)
        chosen = tasks.picked(suite, loaded)
        wanted = suite.settings.get("reasoning")
        markers = reasoning.markers_for(wanted, reasoning.template_of(tools.model))
        lm = shared_prefix_lm(tools.model, tools.progress, markers, settings.max_gen_toks)
        for task in loaded["tasks"].values():
            guard(task)
        result = lm_eval.evaluate(
            lm=lm,
            # lm-eval would run the whole of a task with no picked questions
            task_dict={"tasks": {name: loaded["tasks"][name] for name in chosen}, "groups": {}}
            if suite.picked
            else loaded,
            samples=chosen,
            bootstrap_iters=0,
            apply_chat_template=bool(settings.apply_chat_template),
            confirm_run_unsafe_code=settings.run_unsafe_code,
        )
        own = {**result["results"], **(result.get("groups") or {})}
        told = {name: declared(task) for name, task in loaded["tasks"].items()}
        groups = declared_groups(loaded)
        collected = rows.collect(result["samples"], told, groups, suite.cluster, own)
        shots = {name: task.config.num_fewshot or 0 for name, task in loaded["tasks"].items()}
        cut = (
            f"{lm.cut} requests were longer than the model's context and lost their beginning, as "
            "in lm-eval"
        )
        return SuiteResult(
            rows=collected.rows,
            metrics=collected.metrics,
            notes={
                "num_fewshot": shots,
                "longer_than_context": lm.cut,
                "chat_template": bool(settings.apply_chat_template),
                **{key: True for key in sorted(self.unscored) if getattr(settings, key)},
                **({"left_out": collected.left_out} if collected.left_out else {}),
                **(
                    {"reasoning": reasoning.notes(markers, collected.rows)}
                    if reasoning.separates(wanted)
                    else {}
                ),
            },
            warnings=[
                f"suite '{suite.name}': {message}"
                for message in [
                    *([cut] if lm.cut else []),
                    *collected.warnings,
                    *degenerate_answers.unfinished(collected.rows, "max_gen_toks"),
                ]
            ],
        )

    def rescore(
        self, suite: Suite, rows: Sequence[Mapping[str, Any]], tools: Tools, *, models: bool
    ) -> SuiteResult:
        """Of questions with choices what follows from their log-probabilities."""
        return SuiteResult([row for recorded in rows if (row := rescored(recorded))], ())


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    """`ask: lm-eval`."""
    register(LmEval())
