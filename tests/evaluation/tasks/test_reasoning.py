"""Thinking models: what is taken from their answers, and what a record says of it."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.api.model import Generation
from harness.cli.main import cli
from harness.config.experiment import load_experiment
from harness.errors import ConfigError, UserError
from harness.evaluation.evaluate import SuiteFailure, evaluate
from harness.evaluation.judging.rows import opponents
from harness.evaluation.suite import Where, load_suite, task_of
from harness.evaluation.tasks import reasoning
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.results import schema, store
from harness.types import Artifact, ModelRef
from harness.verification import verify
from harness.verification.suites_at_hand import SuitesAtHand
from tests.conftest import Experiment, run_warm, write_experiment
from tests.evaluation.judging.planted import loving
from tests.evaluation.tasks.thinking import CAP, ROWS, TEMPLATE, thinking, write_rows
from tests.verification.forging import record as changed_record
from tests.verification.forging import samples as changed_samples

PLUGINS = Plugins(discover=False)
THINK = {"end": "</think>"}

# ---- what is taken from an answer ----------------------------------------------------------------


def ids_of(tokenizer: Any, *pieces: str) -> tuple[int, ...]:
    """Texts encoded one by one, so that no token stands across two of them."""
    encoded = (tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces)
    return tuple(token for ids in encoded for token in ids)


def separated(
    tokenizer: Any, ids: tuple[int, ...], wanted: object = THINK, prompt: str = "?", **how: Any
) -> reasoning.Answer:
    generated = Generation(ids, how.pop("capped", False), **how)
    markers = reasoning.markers_for(wanted, None)
    prompts = [ids_of(tokenizer, prompt)]

    def decode(some: Any) -> str:
        return str(tokenizer.decode(list(some), skip_special_tokens=True)).strip()

    (answer,) = reasoning.answers(markers, tokenizer, prompts, [generated], decode)
    return answer


def test_a_marker_is_found_wherever_tokens_are_cut(tokenizer: Any) -> None:
    """Thought and answer come out whole; of the tokens only those up to the marker are thought."""
    thought, answer = "Is it so? Größe 3 < 4.", "Ja: 5 Münzen."
    text = f"<think>{thought}</think>\n{answer}"
    draw = random.Random(0)
    for _ in range(60):
        cuts = sorted(draw.sample(range(1, len(text)), draw.randint(0, 12)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        ids = ids_of(tokenizer, *pieces)
        found = separated(tokenizer, ids)
        assert (found.text, found.reasoning, found.unfinished) == (answer, thought, False)
        at = found.reasoning_tokens
        assert "</think>" in tokenizer.decode(list(ids[:at]))
        assert "</think>" not in tokenizer.decode(list(ids[: at - 1]))
        assert found.tokens == len(ids)


def test_a_token_may_hold_the_end_of_the_marker_and_the_beginning_of_the_answer(
    tokenizer: Any,
) -> None:
    ids = ids_of(tokenizer, "<think>a", "==", "b")
    assert separated(tokenizer, ids, {"end": "a="}).text == "=b"


def test_a_marker_may_be_a_special_token_that_no_text_shows(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    own: Any = AutoTokenizer.from_pretrained(tiny_model)
    own.add_special_tokens({"extra_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = ids_of(own, "[THINK]", "no, ", "yes", "[/THINK]", "yes")
    assert own.decode(list(ids), skip_special_tokens=True) == "no, yesyes"
    found = separated(own, ids, {"end": "[/THINK]"})
    assert (found.text, found.reasoning) == ("yes", "no, yes")
    assert found.reasoning_tokens == len(ids) - len(ids_of(own, "yes"))
    # scored whole it is warned of, though the text has no marker
    model: Any = type("Opened", (), {"tokenizer": own})
    told = reasoning.warnings("s", None, None, model, [(5,)], [Generation(ids, False)])
    assert "1 of 1 answers hold reasoning" in told[0]
    assert "`reasoning: {end: '[/THINK]'}`" in told[0]
    assert not reasoning.warnings("s", "none", None, model, [(5,)], [Generation(ids, False)])


@pytest.mark.parametrize(
    ("said", "prompt", "capped", "text", "unfinished"),
    [
        ("<think>a</think>b", "?", False, "b", False),
        ("a</think>b", "?<think>\n", False, "b", False),
        ("a</think>b", "?", False, "b", False),  # raw prompts: nobody wrote where it began
        ("<think>a", "?", True, "", True),
        ("<think>a", "?", False, "", True),  # it ended without the marker
        ("a", "?<think>\n", True, "", True),
        ("a", "?<think>\n\n</think>\n\n", True, "a", False),  # thinking switched off
        ("a", "?", True, "a", False),  # a long answer of a model that does not think
        ("", "?", False, "", False),
        ("<think>a</think>b</think>c", "?", False, "c", False),
        ("<think>a</think>b<think>c</think>d", "?", False, "d", False),
        ("<think>a</think>b<think>c", "?", True, "", True),
        ("<think>a</think>", "?", True, "", False),  # it came to an end of thought, and no further
        ("<think></think>b", "?", False, "b", False),
    ],
)
def test_what_counts_as_the_answer(
    tokenizer: Any, said: str, prompt: str, capped: bool, text: str, unfinished: bool
) -> None:
    found = separated(tokenizer, ids_of(tokenizer, said), prompt=prompt, capped=capped)
    assert (found.text, found.unfinished) == (text, unfinished)
    assert found.reasoning_tokens <= found.tokens == len(ids_of(tokenizer, said))
    assert unfinished is (found.reasoning_tokens > 0 and "</think>" not in said[-10:] and not text)


def test_an_end_alone_tells_unfinished_reasoning_by_the_cap(tokenizer: Any) -> None:
    """`end: "Answer:"` has no start marker: only an answer that was cut may have gone on to it."""
    wanted = {"end": "Answer:"}
    ids = ids_of(tokenizer, "I add them. Answer: 5")
    assert separated(tokenizer, ids, wanted).text == "5"
    ids = ids_of(tokenizer, "I add them.")
    assert separated(tokenizer, ids, wanted, capped=True).unfinished
    assert separated(tokenizer, ids, wanted).text == "I add them."
    assert separated(tokenizer, ids, {**wanted, "start": "I add"}).unfinished


def test_an_answer_without_finite_logits_is_missing_and_not_unfinished(tokenizer: Any) -> None:
    found = separated(tokenizer, ids_of(tokenizer, "<think>a"), finite=False)
    assert (found.text, found.reasoning, found.unfinished) == ("", "a", False)


def test_the_template_says_which_markers_there_are() -> None:
    def found(wanted: object, template: str | None) -> tuple[str, str | None] | None:
        markers = reasoning.markers_for(wanted, template)
        return markers and (markers.end, markers.start)

    assert found("auto", TEMPLATE) == ("</think>", "<think>")
    assert found("auto", "... content.split('[/THINK]') ...") == ("[/THINK]", "[THINK]")
    assert found("auto", "{{ messages }}") is None
    assert found("auto", None) is None
    assert found("none", TEMPLATE) is None
    assert found(None, TEMPLATE) is None
    assert found({"end": "</x>"}, TEMPLATE) == ("</x>", "<x>")
    assert found({"end": "<|END_THINKING|>"}, None)[1] == "<|START_THINKING|>"  # type: ignore[index]
    assert found({"end": "Answer:"}, TEMPLATE) == ("Answer:", None)


# ---- the key -------------------------------------------------------------------------------------


def suite_file(folder: Path, name: str = "thinks", **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl")
    content = {
        "name": name,
        "version": 1,
        "ask": "generate",
        "data": "rows.jsonl",
        "max_new_tokens": CAP,
        "scorers": ["exact_match"],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**content, **more}, sort_keys=False))
    return file


def loaded(file: Path, overrides: Any = (), **where: Any) -> Any:
    base = ModelRef("tiny", "tiny", content_hash="0" * 64)
    return load_suite(file, dict(overrides), plugins=PLUGINS, base_model=base, where=Where(**where))


def test_every_value_of_the_key_is_another_suite(tmp_path: Path) -> None:
    """Unset it leaves hashes as they were, which tests/planning/test_identity.py holds."""
    unset = loaded(suite_file(tmp_path))
    values: list[object] = ["auto", "none", THINK, {"end": "</x>"}, {**THINK, "start": "<t>"}]
    hashes = {loaded(suite_file(tmp_path), {"reasoning": value}).hash for value in values}
    assert len(hashes | {unset.hash}) == 1 + len(values)
    assert "reasoning" not in unset.parts


def test_an_experiment_says_it_for_suites_that_do_not(experiment: Any) -> None:
    small: Experiment = experiment(reasoning="auto", suites=["answers", "picks", "own", "whole"])
    suite_file(small.folder, "own", reasoning=THINK)
    suite_file(small.folder, "whole")
    small = small.write(suites=["answers", "picks", "own", {"name": "whole", "reasoning": "none"}])
    plan = make_plan(load_experiment(small.file), Plugins(), Settings())
    said = {suite.name: suite.settings.get("reasoning") for suite in plan.suites}
    assert said == {
        "answers": "auto",
        "picks": None,  # multiple choice has no such key
        "own": {**THINK, "start": None},
        "whole": "none",
    }
    unset = make_plan(load_experiment(small.write(reasoning=None).file), Plugins(), Settings())
    before, after = ({s.name: s.hash for s in one.suites} for one in (unset, plan))
    assert [name for name in before if before[name] != after[name]] == ["answers"]


@pytest.mark.parametrize("value", ["yes", {}, {"end": ""}, {"end": "x", "stop": "y"}, 3])
def test_a_wrong_value_is_refused_with_its_line(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match=r"thinks\.yaml:\d+: .*reasoning") as caught:
        loaded(suite_file(tmp_path, reasoning=value))
    assert "\n" not in str(caught.value)


def test_eval_takes_it_for_a_model_trained_elsewhere() -> None:
    from harness.sdk.models import ModelOptions, experiment_of

    def said(value: str | None) -> Any:
        found = experiment_of(ModelOptions("some/model", reasoning=value)).reasoning
        return found if isinstance(found, str) or found is None else found.end

    assert [said(value) for value in (None, "auto", "none", "</x>")] == [
        None, "auto", "none", "</x>",
    ]  # fmt: skip


# ---- a model that thinks -------------------------------------------------------------------------

SUITES: dict[str, dict[str, Any]] = {
    "thinks": {"reasoning": "auto"},
    "named": {"reasoning": THINK},
    "whole": {},
    "wanted": {"reasoning": "none"},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: Any, judging_model: Path, warm: Any) -> Experiment:
    """The same questions with every value of the key, and a judge that compares with the base."""
    folder = tmp_path_factory.mktemp("thinking")
    model = thinking(judging_model, folder / "model", own_template=False)
    small = write_experiment(
        folder / "run",
        model,
        data={"train": "train.jsonl", "validation": 4, "chat_template": TEMPLATE},
        suites=[*SUITES, "judged", "tasks", "short"],
        methods=["base", {"name": "lora", "r": 4}],
    )
    for name, more in SUITES.items():
        suite_file(small.folder, name, **more)
    fair = loving(judging_model, folder / "fair", " A")
    judge = {"name": "pairwise", "rubric": "The right one.", "against": "base", "model": str(fair)}
    suite_file(small.folder, "judged", reasoning="auto", judge=judge)
    (small.folder / "tasks/said.yaml").write_text(TASK)
    shutil.copy(small.folder / "rows.jsonl", small.folder / "tasks/rows.jsonl")
    (small.folder / "tasks/rows.py").write_text(READER)
    for name, more in LM_EVAL.items():
        own = {"name": name, "version": 1, "ask": "lm-eval", "include_path": "tasks", **more}
        own |= {"tasks": ["said"], "trust_task_code": True, "apply_chat_template": True}
        (small.folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
    outcome = run_warm(small, warm)
    assert not outcome.failed
    return small


TASK = """\
task: said
custom_dataset: !function rows.read
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{reference}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 12}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
READER = """\
from pathlib import Path

import datasets


def read(**_):
    return {"test": datasets.Dataset.from_json(str(Path(__file__).with_name("rows.jsonl")))}
"""
LM_EVAL: dict[str, dict[str, Any]] = {
    "tasks": {"reasoning": "auto", "max_gen_toks": CAP},
    "short": {"reasoning": "auto"},
}


def section(ran: Experiment, suite: str, label: str = "base") -> dict[str, Any]:
    found: dict[str, Any] = ran.records()[f"{label}-0"]["evaluation"]["suites"][suite]
    return found


def rows(ran: Experiment, suite: str, label: str = "base") -> dict[str, dict[str, Any]]:
    record: Any = ran.records()[f"{label}-0"]
    return {row["id"]: row for row in store.read_samples(ran.out, record, suite)}


def test_a_thinking_template_scored_with_and_without_reasoning(ran: Experiment) -> None:
    """3 of 4 questions are answered right, and a score of the whole text says 0."""
    for suite in ("thinks", "named", "judged"):
        assert section(ran, suite)["metrics"]["exact_match"]["value"] == 0.75
        assert [row["output"] for row in rows(ran, suite).values()] == ["red", "blue", "", "green"]
    for suite in ("whole", "wanted"):
        assert section(ran, suite)["metrics"]["exact_match"]["value"] == 0.0
        assert rows(ran, suite)["kettle"]["output"] == ROWS[0][1]


def test_the_reasoning_is_kept_and_counted(ran: Experiment, tokenizer: Any) -> None:
    found = rows(ran, "thinks")
    assert found["kettle"]["reasoning"] == "The list says red."
    assert found["tent"]["reasoning"].startswith("Is it red? Or blue?")
    assert found["bell"]["reasoning"] == ""
    assert [row["unfinished_reasoning"] for row in found.values()] == [False, False, True, False]
    own = [len(ids_of(tokenizer, said.partition("</think>")[0], "</think>")) for _, said, _ in ROWS]
    own[2] = CAP
    assert [row["reasoning_tokens"] for row in found.values()] == own
    assert [row["tokens"] for row in found.values()] == [
        row["tokens"] for row in rows(ran, "whole").values()
    ]
    tokens = sum(row["tokens"] for row in found.values())
    assert section(ran, "thinks")["notes"]["reasoning"] == {
        "end": "</think>",
        "start": "<think>",
        "source": "template",
        "answers": 4,
        "reasoned": 4,
        "unfinished": 1,
        "reasoning_tokens": sum(own),
        "tokens": tokens,
        "unfinished_share": 0.25,
        "mean_tokens": pytest.approx(sum(own) / 4),
        "token_share": pytest.approx(sum(own) / tokens),
    }
    assert section(ran, "named")["notes"]["reasoning"]["source"] == "suite"
    for suite in ("whole", "wanted"):
        assert "reasoning" not in section(ran, suite)["notes"]
    for record in ran.records().values():
        schema.validate(record, "record")


def test_generating_tasks_of_lm_eval_go_on_past_a_stop_string_in_the_reasoning(
    ran: Experiment,
) -> None:
    found = section(ran, "tasks")
    assert found["metrics"]["said"]["value"] == 0.75
    answers = list(rows(ran, "tasks").values())
    assert sorted(row["output"] for row in answers) == ["", "blue", "green", "red"]
    assert {row["reasoning"] for row in answers} == {
        row["reasoning"] for row in rows(ran, "thinks").values()
    }
    assert found["notes"]["reasoning"] == section(ran, "thinks")["notes"]["reasoning"]
    # with the task's own 12 tokens one of them comes to an answer, as a warning says
    short = section(ran, "short")
    assert short["metrics"]["said"]["value"] == 0.25
    assert short["notes"]["reasoning"]["unfinished"] == 3
    (line,) = [one for one in ran.records()["base-0"]["warnings"] if "suite 'short'" in one]
    assert line.endswith("3 of 4 answers never end their reasoning and count as empty: "
                         "raise max_gen_toks")  # fmt: skip


def test_who_scores_reasoning_unawares_is_told_how_not_to(ran: Experiment) -> None:
    warned = ran.records()["base-0"]["warnings"]
    (whole,) = [line for line in warned if line.startswith("suite 'whole': degenerate.reasoning")]
    assert "3 of 4 answers hold reasoning" in whole
    # as the advice says it: the suite `named`
    assert "set `reasoning: {end: '</think>'}`" in whole
    (open_,) = [line for line in warned if "'thinks': degenerate.unfinished_reasoning" in line]
    assert "1 of 4 answers never end their reasoning" in open_
    assert not [line for line in warned if "'wanted'" in line and "reasoning" in line]
    assert not [line for line in warned if "'named': no answer" in line]


def test_a_judge_and_its_opponent_see_answers_alone(ran: Experiment) -> None:
    own = [row["output"] for row in rows(ran, "thinks").values()]
    for label in ("base", "lora"):
        judged = rows(ran, "judged", label).values()
        assert [row["judge"]["against"] for row in judged] == own
    assert {row["scores"]["win_rate"] for row in rows(ran, "judged").values()} == {0.5}


def test_a_base_that_has_to_be_asked_is_read_alike(
    ran: Experiment, judging_model: Path, tmp_path: Path
) -> None:
    """Without recorded answers the judge's opponent answers now; the template is the model's."""
    model = ModelRef("thinking", str(thinking(judging_model, tmp_path / "model")))
    suite = load_suite(
        ran.folder / "judged.yaml", {}, plugins=PLUGINS, base_model=model, where=Where()
    )
    (outcome,) = evaluate(
        Artifact("base", model), [suite], lambda name: nullcontext(), lambda **event: None
    )
    assert not isinstance(outcome.result, SuiteFailure), outcome.result
    assert [row["judge"]["against"] for row in outcome.result.rows] == ["red", "blue", "", "green"]


def test_answers_with_reasoning_are_no_opponents_of_answers_without(ran: Experiment) -> None:
    suite = loaded(ran.folder / "whole.yaml")
    samples = task_of(suite, PLUGINS).samples(suite)
    folder, cell = str(ran.out), ran.records()["base-0"]["id"]
    other = opponents.Opponent(folder, cell)
    assert opponents.read(other, "thinks", samples, CAP, without_reasoning=True)[0] == "red"
    assert opponents.read(other, "whole", samples, CAP)[0] == ROWS[0][1]
    with pytest.raises(UserError, match="75% of its answers hold their reasoning"):
        opponents.read(other, "whole", samples, CAP, without_reasoning=True)


def test_verify_computes_the_same_numbers_and_names_what_was_changed(
    ran: Experiment, tmp_path: Path
) -> None:
    at_hand = SuitesAtHand(Plugins(discover=False), (ran.folder,))

    def report(folder: Path) -> Any:
        return verify.results(folder, at_hand).report

    clean = report(ran.out)
    assert (clean.verdict, clean.findings) == ("holds", [])
    # of both rows, though the base's record does not state the experiment's template
    assert clean.checked["scores"] == 2 * 5 * 4
    assert not [line for line in clean.trusted if "not at hand" in line]
    changes: dict[str, tuple[str, Any]] = {
        "notes": ("thinks.reasoning.unfinished", None),
        "text": ("output", {"output": "red"}),
        "tokens": ("reasoning_tokens", {"reasoning_tokens": 4000}),
        "scored": ("exact_match", {"scores": {"exact_match": 1.0}}),
    }
    for name, (where, change) in changes.items():
        folder = tmp_path / name
        shutil.copytree(ran.out, folder)
        if change is None:
            with changed_record(folder, "base") as content:
                content["evaluation"]["suites"]["thinks"]["notes"]["reasoning"]["unfinished"] = 0
        else:
            with changed_samples(folder, "base", "thinks") as content_rows:
                content_rows[2] |= change
        found = report(folder)
        assert found.verdict != "holds", name
        assert [one for one in found.findings if where in str(one)], (name, found.findings)


def test_tables_say_how_much_was_thought(ran: Experiment) -> None:
    from click.testing import CliRunner

    done = CliRunner().invoke(cli, ["leaderboard", str(ran.out)])
    assert done.exit_code == 0, done.output
    line = " ".join(done.output.split())
    share = section(ran, "thinks")["notes"]["reasoning"]["token_share"]
    assert f"base: suite 'thinks': {share:.0%} of the tokens are reasoning" in line
    assert "1 of 4 answers (25%) never end it" in line
    assert "suite 'whole': 0%" not in line
    board = json.loads((ran.out / "leaderboard.json").read_text())
    schema.validate(board, "leaderboard")
    assert {tuple(row["reasoning"]) for row in board["rows"]} == {
        ("thinks", "named", "judged", "tasks", "short")
    }
