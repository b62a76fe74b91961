"""Answers in the model's own words, rated by scorers or a judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_serializer, model_validator
from typing_extensions import Self

from harness.api.judge import Judge, Judgement
from harness.api.model import Model
from harness.api.task import (
    Conversation,
    JudgeSeat,
    Need,
    Requests,
    Resolver,
    Resources,
    Suite,
    SuiteExample,
    TaskTools,
)
from harness.api.tools import Tools
from harness.config.reasoning import NONE, Reasoning
from harness.config.strict_yaml import KeyPath, Located, StrictModel
from harness.data.tokenization import encode_prompt
from harness.errors import ConfigError, PluginFault
from harness.evaluation.judging import answer_labels, correction, endpoint, endpoint_check
from harness.evaluation.judging.endpoint import EndpointSettings
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.panels import seats
from harness.evaluation.judging.panels.panel import Panel
from harness.evaluation.judging.rows import opponents
from harness.evaluation.judging.verdicts import (
    MOST_MISSING,
    check_finite,
    check_missing,
    missing_counts,
)
from harness.evaluation.scorer_config import DIFFERENCE, OTHER, checked, checked_statistics, uses
from harness.evaluation.tasks import negative_control, reasoning
from harness.evaluation.tasks.sample_rows import missing
from harness.evaluation.tasks.sample_task import DataSettings, SampleTask, identity
from harness.hookspecs import hookimpl
from harness.manager import plugins
from harness.models import families
from harness.stats import metric_summary
from harness.stats.answers import degenerate_answers
from harness.types import Metric, ModelRef, Output, Sample, SuiteResult

EXAMPLE = """\
ask: generate  # the model answers in its own words
data: {name}.jsonl  # rows with prompt (or messages), reference, must_contain
max_new_tokens: 64  # where an answer is cut
scorers: [rougeL, exact_match, must_contain]  # `harness plugins` lists them all
# A model can judge as well: `base`, which is the untouched base of what is judged, or any other.
# `quant_type: nf4` in it opens the judge in 4 bits, where it would not fit otherwise.
# judge:
#   name: reference_gain  # how much likelier the answer makes the reference
#   model: base
# Then `harness judge certify {name} --model MODEL` says how far it can be believed.
"""

EXAMPLE_ROWS = """\
{"id": "opening-hours", "prompt": "When is the shop open on Saturdays?", \
"reference": "On Saturdays we are open from 9 to 13 o'clock.", "must_contain": ["9", "13"]}
{"id": "return-window", "prompt": "How long can I return a lamp?", \
"reference": "You can return it within 30 days.", "must_contain": ["30 days"]}
{"id": "delivery", "prompt": "Do you deliver to islands?", \
"reference": "Yes, and it takes two days longer.", "must_contain": ["two days"]}
"""


_OF_PANELS = {"panel", "least", "max_missing", "labels", "certificate"}
"""Keys that stand beside a panel."""


class JudgeSettings(StrictModel):
    """Who judges; the other keys are the judge's own `Options`, and checked by it."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    """A registered judge."""
    panel: list[JudgeSettings] | None = Field(None, min_length=2)
    """Several judges in the place of one, each with its own `name`, model and options."""
    least: int | None = Field(None, ge=1)
    """Judges of a panel that must give a verdict on an answer; by default more than half."""
    model: str = "base"
    """`base` (the untouched base of what is judged), an alias, a folder or a Hub id."""
    quant_type: Literal["none", "nf4", "fp4", "int8"] | None = None
    """Number format of the judge's weights; by default as the base is opened."""
    endpoint: EndpointSettings | None = None
    """An OpenAI-compatible endpoint whose model judges, in place of one in this process."""
    max_missing: float = Field(MOST_MISSING, ge=0, le=1)
    """Share of the answers without a verdict beyond which the suite fails."""
    labels: str | None = None
    """A file of people's labels of answers, by sample and answer: the figure is then the share of
    good answers, of which the verdicts and the labels together tell."""
    certificate: str | None = None
    """What `harness judge certify --out` wrote, by its path from the suite's file: the judge's
    figure is corrected for the errors that it states."""

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        """A judge by its name, or a panel of them."""
        if self.panel is None:
            if self.name is None:
                raise ValueError("missing key 'name': name a judge, or several with `panel:`")
            if self.least is not None:
                raise ValueError("`least` is of a panel: leave it out")
            return self
        beside = sorted(self.model_fields_set - _OF_PANELS) + sorted(self.model_extra or ())
        if beside:
            raise ValueError(f"'{beside[0]}' is of one judge: write it in those of the panel")
        for one in self.panel:
            own = sorted(one.model_fields_set & (_OF_PANELS | {"labels"}))
            if own:
                raise ValueError(f"'{own[0]}' is of the panel as a whole: write it beside `panel`")
        if self.least is not None and self.least > len(self.panel):
            raise ValueError(f"least is {self.least}, and the panel has {len(self.panel)} judges")
        return self

    @property
    def members(self) -> list[tuple[KeyPath, JudgeSettings]]:
        """Where each judge is written, and what is: the panel's, or just this one."""
        if self.panel is None:
            return [(("judge",), self)]
        return [(("judge", "panel", i), one) for i, one in enumerate(self.panel)]

    @model_serializer(mode="wrap")
    def _written(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what came later, where it is not set: hashes stay."""
        unset = {
            "quant_type": None,
            "max_missing": MOST_MISSING,
            "endpoint": None,
            "labels": None,
            "name": None,
            "panel": None,
            "least": None,
            "certificate": None,
        }.items()
        alone = {"model"} if self.panel is not None else set()
        written = write(self).items()
        return {k: v for k, v in written if (k, v) not in unset and k not in alone}

    @property
    def whose(self) -> str:
        """The model that judges, without the folder that it lies in."""
        return self.endpoint.model if self.endpoint else Path(self.model).name

    def own_options(self) -> dict[str, object]:
        """The keys that are the judge's."""
        return dict(self.model_extra or {})


class GenerateSettings(DataSettings):
    """A suite with `ask: generate`."""

    scorers: list[str | dict[str, Any]] = Field(default_factory=list)
    """Names, or mappings of `name`, an optional `label` and options."""
    max_new_tokens: int = Field(64, ge=1, le=1_000_000)
    """Tokens after which an answer is cut; cut answers are counted."""
    embedder: str = "minilm-l6"
    """For scorers that compare embeddings: a packaged alias, a folder or a Hub id."""
    judge: JudgeSettings | None = None
    """Who rates the answers beside the scorers."""
    apply_chat_template: bool | None = None
    """Whether a prompt that is plain text becomes a user's turn; by default where the model has a
    template."""
    reasoning: Reasoning | None = None
    """What ends a thinking model's reasoning, which is no part of the answer: `{end: "</think>"}`,
    or `auto` for what the model's chat template writes. `none`, and by default, answers are scored
    whole; the default is the experiment's, where it has one."""
    engine: str | None = Field(None, min_length=1)
    """What generates the answers, such as `vllm`; by default the experiment's, else passes of this
    process. Another engine's answers are another suite's: the hash differs."""

    def with_reasoning(self, default: Reasoning) -> GenerateSettings:
        """With the experiment's, where the suite says nothing."""
        return self if self.reasoning else self.model_copy(update={"reasoning": default})


class Generate(SampleTask[GenerateSettings]):
    """Continues each prompt."""

    name = "generate"
    Settings = GenerateSettings

    def check(self, settings: GenerateSettings, located: Located) -> None:
        """Somebody must rate the answers."""
        super().check(settings, located)
        if not (settings.scorers or settings.judge):
            raise located.error("ask: generate needs `scorers:` or a `judge:`", ("ask",))
        for path, judge in settings.judge.members if settings.judge else ():
            if judge.endpoint is not None:
                local = [key for key in ("model", "quant_type") if key in judge.model_fields_set]
                endpoint_check.check_settings(judge.endpoint, local, located, path)

    def resolve(self, settings: GenerateSettings, resolver: Resolver) -> Resources:
        """The rows, the scorers with their embedder, and the judge with its model."""
        judge = settings.judge
        rater, judging = _judging(judge, resolver) if judge else (None, {})
        reserved = [metric.name for metric in rater.metrics()] if rater else []
        labels = judge.labels if judge else None
        if labels is not None:
            reserved.append(answer_labels.LABEL)
        scorers = resolver.scorers(settings.scorers, reserved=reserved)
        files = super().resolve(settings, resolver)
        embedder = resolver.embedder(scorers, settings.embedder)
        compares = rater is not None and rater.asks_base
        base = resolver.judge_quantization(None, base=True) if compares else None
        row = rater.asks_row if rater is not None else None
        recorded = row is not None and row.endswith(".json")
        return dataclasses.replace(
            files,
            scorers=scorers,
            embedder=embedder,
            **judging,
            judge_labels=resolver.rows({"labels": labels})["labels"] if labels else None,
            judge_row=None if recorded else row,
            judge_record=resolver.record(row) if row is not None and recorded else None,
            judge_certificate_file=judge.certificate if judge else None,
            base_quantization=base,
        )

    def conversations(self, suite: Suite) -> Iterator[Conversation]:
        """Prompts; a plain one as a user's turn, unless the suite sends it as it is."""
        (file,) = suite.sources.values()
        wraps = self.settings(suite).apply_chat_template is not False
        for sample in self.samples(suite):
            if sample.messages is not None:
                yield Conversation(file, sample.line, sample.messages, False, tools=sample.tools)
            elif wraps:
                turn = {"role": "user", "content": sample.prompt or ""}
                needs, tools = bool(sample.tools), sample.tools
                yield Conversation(file, sample.line, [turn], False, needs, tools)

    def dependencies(self, suite: Suite) -> dict[str, object]:
        """The recorded answers that a judge compares with; UserError if not of the suite's."""
        if suite.judge_record is None:
            return {}
        samples, cap = self.samples(suite), self.settings(suite).max_new_tokens
        apart = reasoning.separates(suite.settings.get("reasoning"))
        opponent = opponents.of_record(Path(suite.judge_record))
        answers = opponents.read(opponent, suite.name, samples, cap, without_reasoning=apart)
        return {"opponent": opponents.digest(samples, answers)}

    def corrections(self, suite: Suite) -> dict[str, object]:
        """A judge's certificate, and labels of its answers; DataError if not of the suite's."""
        return correction.content(suite, self._labels(suite))

    def correct(self, suite: Suite, result: SuiteResult) -> SuiteResult:
        """The judge's figure by its certificate, and by labels of its answers."""
        judge = judge_of(suite, plugins())
        if judge is None:
            return result
        return correction.correct(suite, judge.metrics()[0].name, self._labels(suite), result)

    def _labels(self, suite: Suite) -> answer_labels.AnswerLabels | None:
        if suite.judge_labels is None:
            return None
        judge = judge_of(suite, plugins())
        if judge is None or correction.SCORE not in {metric.name for metric in judge.metrics()}:
            raise ConfigError(
                f"judge '{suite.judge}' rates no single answer, so that labels of "
                "answers cannot correct it: remove `labels`",
                file=suite.file,
            )
        ids = {sample.id for sample in self._all(suite)}
        return answer_labels.read(Path(suite.judge_labels), ids)

    def check_context(self, suite: Suite, model: ModelRef) -> None:
        """`max_new_tokens` must leave room for a prompt."""
        cap = self.settings(suite).max_new_tokens
        families.check_answers(model, cap, "max_new_tokens", "set it to less")

    def check_loading(self, suites: Sequence[Suite]) -> None:
        """The endpoints of judges answer and serve their models."""
        endpoint_check.check_served(suites)

    def needs(self, suite: Suite) -> frozenset[Need]:
        """Generated answers."""
        return frozenset({"answers"})

    def metrics(self, suite: Suite) -> list[str]:
        """A metric per scorer, its negative control where it has one, and the judge's `score`."""
        controlled = any(negative_control.others(self._all(suite)))
        names = []
        for label, scorer, _ in uses(suite.scorers, plugins()):
            names += [label, *([label + DIFFERENCE] if scorer.controlled and controlled else [])]
        judge = judge_of(suite, plugins())
        return [*names, *(metric.name for metric in judge.metrics())] if judge else names

    def _all(self, suite: Suite) -> list[Sample]:
        """The samples of the suite, asked or not: the others of one hang on no choice of them."""
        return self.samples(dataclasses.replace(suite, picked=None))

    def example(self, name: str) -> SuiteExample:
        """Three questions to a shop."""
        return SuiteExample(EXAMPLE.format(name=name), {f"{name}.jsonl": EXAMPLE_ROWS})

    def requests(self, suite: Suite, model: Model) -> Requests:
        """One prompt per sample, up to where the assistant answers."""
        settings, samples = self.settings(suite), self.samples(suite)
        if settings.apply_chat_template is not False and _has_template(model):
            samples = [_as_turn(sample) for sample in samples]
        prompts = [encode_prompt(model.tokenizer, s, model.chat_template) for s in samples]
        return Requests(prompts=prompts, max_new_tokens=settings.max_new_tokens, state=samples)

    def score(self, suite: Suite, requests: Requests, tools: TaskTools) -> SuiteResult:
        """One row per sample, with a score of every scorer and of the judge."""
        samples, cap = requests.state, requests.max_new_tokens
        wanted, markers, answers = _answers(suite, requests, tools)
        outputs = [
            Output(sample.id, answer.text, answer.tokens, generated.capped)
            for sample, answer, generated in zip(samples, answers, requests.generated, strict=True)
        ]
        cut = sum(generated.cut for generated in requests.generated)
        notes: dict[str, object] = {
            "longer_than_context": cut,
            "capped_share": sum(o.capped for o in outputs) / len(outputs),
            "decoding": {"greedy": True, "max_new_tokens": cap},
        }
        ratings = _Ratings(notes, [_cut(suite, cut, cap)] if cut else [])
        others = suite.pick(negative_control.others(self._all(suite)))
        _rate(suite, samples, outputs, others, tools, ratings)
        if any(scorer.embeds for _, scorer, _ in uses(suite.scorers, plugins())):
            _note_cut_texts(suite, outputs, samples, tools, ratings)
        if suite.judge:
            _judge(suite, outputs, samples, tools, ratings)
        rows = [
            _row(
                suite,
                sample,
                output,
                {**_thought(wanted, markers, answer), **missing((), generated.finite)},
                ratings.of(i, not generated.finite),
            )
            for i, (sample, output, answer, generated) in enumerate(
                zip(samples, outputs, answers, requests.generated, strict=True)
            )
        ]
        if reasoning.separates(wanted):
            notes["reasoning"] = reasoning.notes(markers, rows)
        found = degenerate_answers.detect(suite.name, rows)
        if all(one.name != "reasoning" for one in found):
            ratings.warnings += reasoning.warnings(
                suite.name, wanted, markers, tools.model, requests.prompts, requests.generated
            )
        ratings.warnings += map(str, found)
        result = SuiteResult(rows, ratings.metrics, ratings.notes, ratings.warnings)
        return self.correct(suite, result)

    def rescore(
        self, suite: Suite, rows: Sequence[Mapping[str, Any]], tools: Tools, *, models: bool
    ) -> SuiteResult:
        """Prompts and references, and what the scorers give for the answers."""
        every = self._all(suite)
        others = dict(zip((s.id for s in every), negative_control.others(every), strict=True))
        by_id = {sample.id: sample for sample in self.samples(suite)}
        known = [row for row in rows if row["id"] in by_id]
        answered = [row for row in known if row.get("output") is not None and "missing" not in row]
        samples = [by_id[row["id"]] for row in answered]
        outputs = [
            Output(row["id"], row["output"], row["tokens"], row["capped"]) for row in answered
        ]
        ratings = _Ratings({}, [])
        of_answered = [others[sample.id] for sample in samples]
        _rate(suite, samples, outputs, of_answered, tools, ratings, models=models)
        rated = {sample.id: ratings.of(i, False) for i, sample in enumerate(samples)}
        asked = [
            {
                **identity(suite, by_id[row["id"]]),
                "prompt": _asked(by_id[row["id"]], row.get("prompt")),
                **_offered(by_id[row["id"]]),
                "reference": by_id[row["id"]].reference,
                **rated.get(row["id"], {}),
            }
            for row in known
        ]
        return SuiteResult(asked, ratings.metrics)


def _answers(
    suite: Suite, requests: Requests, tools: TaskTools
) -> tuple[object, reasoning.Markers | None, list[reasoning.Answer]]:
    """The suite's `reasoning`, its markers for this model, and the answers apart from it."""
    model, wanted = tools.model, suite.settings.get("reasoning")
    markers = reasoning.markers_for(wanted, reasoning.template_of(model))
    found = reasoning.answers(
        markers, model.tokenizer, requests.prompts, requests.generated, tools.decode
    )
    return wanted, markers, found


def _thought(
    wanted: object, markers: reasoning.Markers | None, answer: reasoning.Answer
) -> dict[str, object]:
    """What a row has of the reasoning: null where it is to be scored, nothing where it may be."""
    if wanted == NONE:
        return {"reasoning": None}
    return reasoning.of_row(answer) if markers else {}


def _asked(sample: Sample, recorded: object) -> object:
    """The prompt as a row holds it; a plain one is a user's turn where the model has a template."""
    forms = [_prompt(sample), _prompt(_as_turn(sample))]
    return recorded if recorded in forms else forms[0]


def _rate(
    suite: Suite,
    samples: Sequence[Sample],
    outputs: Sequence[Output],
    others: Sequence[Sequence[Sample]],
    tools: Tools,
    ratings: _Ratings,
    *,
    models: bool = True,
) -> None:
    """Add what the scorers give; without `models` those alone that open none."""
    for label, scorer, options in uses(suite.scorers, plugins()):
        if not models and (scorer.embeds or scorer.models):
            continue
        scores = scorer.rate(outputs, samples, tools, **options)
        whose, better, bounds = f"scorer '{scorer.name}'", scorer.higher_is_better, scorer.bounds
        metric = Metric(label, better, scorer.kind, bounds=bounds)
        if scorer.kind == "corpus_bleu" or scorer.kind == "corpus_chrf":
            ratings.metrics.append(metric)
            own = checked_statistics(scores, len(outputs), whose, scorer.kind)
            ratings.statistics[label] = own
            continue
        rating = checked(scores, len(outputs), whose, bounds)
        ratings.add(metric, rating)
        if scorer.controlled and any(others):
            other = negative_control.means(scorer, outputs, others, tools, options)
            difference = negative_control.minus(rating, other)
            ratings.scores[label + OTHER] = other
            own_minus_other = bounds and metric_summary.spread(bounds)
            ratings.add(Metric(label + DIFFERENCE, better, bounds=own_minus_other), difference)


def _judging(judge: JudgeSettings, resolver: Resolver) -> tuple[Judge, dict[str, Any]]:
    """The judge or the panel, and what `Resources` has of it."""
    found = [_one_judge(one, path, resolver) for path, one in judge.members]
    if judge.panel is None:
        return found[0]
    named = [(str(one.name), one.whose) for one in judge.panel]
    labels = seats.labels(named)
    panel = Panel([one for one, _ in found], labels, judge.least)
    if (fault := panel.fault()) is not None:
        at, message = fault
        raise resolver.error(message, ("judge", "panel", at))
    return panel, {
        "judge": panel.name,
        "judge_options": panel.options.model_dump(mode="json"),
        "judge_panel": tuple(
            JudgeSeat(label=label, **of) for label, (_, of) in zip(labels, found, strict=True)
        ),
    }


def _one_judge(
    judge: JudgeSettings, path: KeyPath, resolver: Resolver
) -> tuple[Judge, dict[str, Any]]:
    keys = list(JudgeSettings.model_fields)
    rater = resolver.judge_with_options(str(judge.name), judge.own_options(), keys, path)
    here, behind = judge.endpoint is None, judge.endpoint
    other = here and judge.model != "base"
    quantised = resolver.judge_quantization(judge.quant_type, base=not other) if here else None
    return rater, {
        "judge": rater.name,
        "judge_options": rater.options.model_dump(mode="json"),
        "judge_model": resolver.model(judge.model, (*path, "model")) if other else None,
        "judge_quantization": quantised,
        "judge_endpoint": behind.model_dump(mode="json") if behind else None,
    }


@dataclass
class _Ratings:
    """What scorers and a judge gave, by metric."""

    notes: dict[str, object]
    warnings: list[str]
    metrics: list[Metric] = field(default_factory=list)
    scores: dict[str, Sequence[float | None]] = field(default_factory=dict)
    statistics: dict[str, Sequence[Sequence[float] | None]] = field(default_factory=dict)
    """Of corpus scores."""
    verdicts: Sequence[Mapping[str, object]] = ()
    """What the sample file keeps of the judge's; none where it keeps nothing."""

    def add(self, metric: Metric, scores: Sequence[float | None]) -> None:
        self.metrics.append(metric)
        self.scores[metric.name] = scores

    def of(self, sample: int, unanswered: bool) -> dict[str, object]:
        """Those of one sample, as its row holds them; None where it has no answer."""
        kinds: dict[str, Mapping[str, Sequence[object]]] = {"scores": self.scores}
        if self.statistics:
            kinds["statistics"] = self.statistics
        rated: dict[str, object] = {
            kind: {name: None if unanswered else every[sample] for name, every in by_name.items()}
            for kind, by_name in kinds.items()
        }
        if self.verdicts and not unanswered:
            rated["judge"] = dict(self.verdicts[sample])
        return rated


def _note_cut_texts(
    suite: Suite,
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: TaskTools,
    ratings: _Ratings,
) -> None:
    """Say of how many texts the embedder saw the beginning alone."""
    answers, most = tools.cut_by_embedder([output.text for output in outputs])
    references, _ = tools.cut_by_embedder([sample.reference or "" for sample in samples])
    if answers or references:
        ratings.notes[degenerate_answers.CUT] = {
            "samples": len(samples),
            "answers": answers,
            "references": references,
            "most_tokens": most,
        }
        ratings.warnings += degenerate_answers.cut_by_embedder(suite.name, ratings.notes)


def _judge(
    suite: Suite,
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: TaskTools,
    ratings: _Ratings,
) -> None:
    """Add the judge's ratings."""
    judge = judge_of(suite, plugins())
    assert judge is not None
    whose = f"judge '{judge.name}'"
    verdict = judge.judge(outputs, samples, rubric=judge.options.rubric, tools=tools)
    if not isinstance(verdict, Judgement):
        raise PluginFault(f"{whose} gave {repr(verdict)[:100]}, not a Judgement")
    given: list[tuple[Metric, object]] = []
    for at, metric in enumerate(judge.metrics()):
        given.append((metric, verdict.more.get(metric.name) if at else verdict.scores))
    rated = [(m, checked(scores, len(outputs), whose, m.bounds)) for m, scores in given]
    check_finite(verdict)
    ratings.warnings += verdict.warnings
    if warning := check_missing(verdict, _max_missing(suite)):
        ratings.warnings.append(f"suite '{suite.name}': {warning}; they have no scores")
    for metric, scores in rated:
        ratings.add(metric, scores)
    ratings.verdicts = _verdict_rows(verdict, whose)
    identity = tools.judge_identity()
    counts = {"missing": missing_counts(verdict)} if verdict.missing else {}
    told = {**identity, "judge": judge.name, **verdict.notes, **counts}
    if suite.judge_endpoint is not None:
        info = tools.judge_backend().info()
        told["backend"] = dict(info)
        ratings.warnings += endpoint.warnings(suite.name, info)
    for one in identity.get("judges", ()):
        if "backend" in one:
            ratings.warnings += endpoint.warnings(suite.name, one["backend"])
    ratings.notes["judge"] = told


def _max_missing(suite: Suite) -> float:
    settings = GenerateSettings.model_validate(suite.settings).judge
    assert settings is not None
    return settings.max_missing


def _verdict_rows(verdict: Judgement, whose: str) -> list[dict[str, object]]:
    """What the sample file keeps of each verdict; none where the judge gives nothing to keep."""
    answers = len(verdict.scores)
    for name, every in (("rows", verdict.rows), ("missing", verdict.missing)):
        if every and len(every) != answers:
            raise PluginFault(f"{whose} gave {len(every)} {name} for {answers} answers")
    rows: list[dict[str, object]] = [dict(row) for row in verdict.rows]
    if any(verdict.missing):
        rows = rows or [{} for _ in range(answers)]
        for row, reason in zip(rows, verdict.missing, strict=True):
            row |= {"missing": reason} if reason else {}
    return rows


def _row(
    suite: Suite,
    sample: Sample,
    output: Output,
    more: Mapping[str, object],
    rated: Mapping[str, object],
) -> dict[str, object]:
    """A sample row; `more` is its reasoning, and why it has no answer where that is so."""
    return {
        **identity(suite, sample),
        "prompt": _prompt(sample),
        **_offered(sample),
        "reference": sample.reference,
        "output": output.text,
        "tokens": output.tokens,
        "capped": output.capped,
        **more,
        **rated,
    }


def _prompt(sample: Sample) -> object:
    """A sample's prompt as JSON."""
    return [dict(m) for m in sample.messages] if sample.messages else sample.prompt


def _offered(sample: Sample) -> dict[str, object]:
    """The tools that a sample offers, as a row holds them; nothing where it offers none."""
    return {"tools": [dict(tool) for tool in sample.tools]} if sample.tools else {}


def _cut(suite: Suite, cut: int, cap: int) -> str:
    return (
        f"suite '{suite.name}': {cut} prompts left no room for {cap} tokens of answer in the "
        "model's context and lost their beginning"
    )


def _has_template(model: Model) -> bool:
    """Whether prompts can be turns of a conversation."""
    return bool(model.chat_template or model.tokenizer.chat_template)


def _as_turn(sample: Sample) -> Sample:
    """A plain prompt as what a user says, as training does with prompt/completion rows."""
    if sample.messages is not None or sample.prompt is None:
        return sample
    return dataclasses.replace(sample, messages=({"role": "user", "content": sample.prompt},))


@hookimpl
def register_tasks(register: Callable[[Any], None]) -> None:
    """`ask: generate`."""
    register(Generate())
