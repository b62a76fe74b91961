"""The seeds of one method: a row of the leaderboard, an arm of a comparison.

Everything here reads records, as `store.read_record` gives them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.errors import UserError
from harness.record import MetricSection, Plan, Record, SuiteSection
from harness.results.store import label, suites
from harness.stats import metric_summary
from harness.stats.answers import degenerate_answers

ReadRows = Callable[[Record, str], metric_summary.Rows]
"""`read_rows(record, suite)`: the rows of a sample file (`store.rows_reader`)."""


@dataclass
class Group:
    """The seeds of one model, method, options, label, data and budget."""

    cells: list[Record] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        """That of the first seed; the others differ in the seed alone."""
        return self.cells[0]["plan"]

    @property
    def label(self) -> str:
        """Of its method."""
        return label(self.plan)

    @property
    def title(self) -> str:
        """Label and model."""
        return f"{self.label} ({self.plan['model']['name']})"

    @property
    def hashes(self) -> dict[str, str]:
        """Suite -> what must be equal for its figures to be compared."""
        return {
            name: identity(suite) for cell in self.cells for name, suite in suites(cell).items()
        }

    @property
    def tokenizer(self) -> str:
        """What figures per token depend on: its hash, or the model where no record has one."""
        evaluations = [cell["evaluation"] for cell in self.cells]
        hashes = [evaluation.get("tokenizer_hash") for evaluation in evaluations if evaluation]
        model = self.plan["model"]
        return next(filter(None, (*hashes, model.get("content_hash"), model["name"])))

    def takes(self, cell: Record) -> bool:
        """One cell per seed, and seeds are averaged only where they answered the same suites."""
        hashes = self.hashes
        return cell["plan"]["seed"] not in [mine["plan"]["seed"] for mine in self.cells] and all(
            hashes.get(name, identity(suite)) == identity(suite)
            for name, suite in suites(cell).items()
        )

    def having(self, suite: str, metric: str) -> list[Record]:
        """Its cells that have the metric."""
        return [cell for cell in self.cells if metric in metrics(cell, suite)]

    def seeds(self, suite: str, metric: str) -> list[int | None]:
        """Of its cells that have the metric."""
        return [cell["plan"]["seed"] for cell in self.having(suite, metric)]

    def metric_names(self) -> list[tuple[str, str]]:
        """(suite, metric), in the order of the plan's suites, then of each suite's metrics."""
        names = {
            (suite, metric): None
            for cell in self.cells
            for suite in (*cell["plan"].get("suites", ()), *suites(cell))
            for metric in metrics(cell, suite)
        }
        return list(names)

    def metric(self, suite: str, metric: str) -> MetricSection:
        """A metric as it is in the first record that has it."""
        return metrics(self.having(suite, metric)[0], suite)[metric]

    def headlines(self) -> list[tuple[str, str]]:
        """The first (suite, metric) of each suite."""
        firsts: dict[str, str] = {}
        for suite, metric in self.metric_names():
            firsts.setdefault(suite, metric)
        return list(firsts.items())

    def bases(self, suite: str, metric: str, by_id: Mapping[str, Record]) -> list[Record]:
        """The base cells (each once) that the metric may be compared with."""
        cells = self.having(suite, metric)
        ids = filter(None, dict.fromkeys(map(base_id, cells)))
        wanted = identity(suites(cells[0])[suite])
        bases = [by_id[key] for key in ids if key in by_id]
        same = [base for base in bases if suite in suites(base)]
        same = [base for base in same if identity(suites(base)[suite]) == wanted]
        if not metric_summary.per_token(metrics(cells[0], suite)[metric]["estimator"]):
            return same
        tokenizer = Group(cells).tokenizer
        return [base for base in same if Group([base]).tokenizer == tokenizer]


def grouped(cells: Iterable[Record]) -> list[Group]:
    """Cells by what they are seeds of; seeds in order."""
    groups: dict[str, list[Group]] = {}
    for cell in sorted(cells, key=lambda cell: str(cell["id"])):
        alike = groups.setdefault(_key(cell["plan"]), [])
        group = next((known for known in alike if known.takes(cell)), None)
        if group is None:
            alike.append(group := Group())
        group.cells.append(cell)
    for group in (group for alike in groups.values() for group in alike):
        group.cells.sort(key=lambda cell: (cell["plan"]["seed"] or 0, cell["id"]))
    return [group for alike in groups.values() for group in alike]


def _key(plan: Plan) -> str:
    model, data = plan["model"], plan.get("data") or {}
    parts: list[object] = [
        model["name"],
        model.get("content_hash"),
        model.get("revision"),
        plan["method"],
    ]
    parts += [label(plan), plan["options"], plan.get("budget"), model.get("trust_remote_code")]
    parts += [data.get(key) for key in ("hash", "rows", "format", "loss", "chat_template")]
    parts += [(data.get("mix") or {}).get(key) for key in ("share", "hash")]
    return json.dumps(parts, sort_keys=True)


def metrics(cell: Record, suite: str) -> Mapping[str, MetricSection]:
    """The metrics of a record's suite; none where it has no such suite."""
    section = suites(cell).get(suite)
    return section["metrics"] if section else {}


def base_id(cell: Record) -> str | None:
    """Id of the base that a cell was compared with; None for the base itself."""
    evaluation = cell["evaluation"]
    return evaluation.get("base") if evaluation else None


def identity(section: SuiteSection) -> str:
    """What must be equal for figures of a suite to be compared."""
    return "/".join(filter(None, (section["hash"], section.get("data_hash"))))


def findings(record: Record) -> list[str]:
    """Names of the findings in a record: of its search, then of its training as they were seen."""
    training, tuning = record["training"] or {}, record["plan"].get("tuning")
    at_edge = tuning.get("at_edge") if tuning else None
    edges = [f"{option}_at_edge" for option in at_edge or ()]
    return [*edges, *(finding["name"] for finding in training.get("health", []))]


def degenerate(group: Group, read_rows: ReadRows) -> list[degenerate_answers.Degenerate]:
    """Of all seeds of a group, each suite's ways once; samples that are not there have none."""
    every: dict[tuple[str, str], degenerate_answers.Degenerate] = {}
    for cell in group.cells:
        for suite in suites(cell):
            for one in degenerate_answers.detect(suite, own_words(cell, suite, read_rows)):
                every.setdefault((one.suite, one.name), one)
    return list(every.values())


def answer_warnings(group: Group, read_rows: ReadRows) -> list[str]:
    """Lines on what is degenerate, and on texts that an embedder cut, each suite's once."""
    lines = [str(one) for one in degenerate(group, read_rows)]
    cut: dict[str, list[str]] = {}
    for cell in group.cells:
        for suite, section in suites(cell).items():
            if found := degenerate_answers.cut_by_embedder(suite, section.get("notes") or {}):
                cut.setdefault(suite, found)
    return [*lines, *(line for found in cut.values() for line in found)]


def own_words(cell: Record, suite: str, read_rows: ReadRows) -> metric_summary.Rows:
    """The rows of a suite whose answers are the model's own words; none of another."""
    if "capped_share" not in (suites(cell)[suite].get("notes") or {}):
        return []
    try:
        return read_rows(cell, suite)
    except UserError:  # what needs the samples says so itself
        return []
