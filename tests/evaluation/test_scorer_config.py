"""Scorers: their settings in a suite's file, and what they refuse before anything runs."""

import math

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from harness import Sample, scorer
from harness.api.task import ScorerUse, Suite
from harness.errors import ConfigError, DataError, PluginFault, UserError
from harness.evaluation.scorer_config import checked, checked_statistics, uses
from harness.evaluation.suite import Where, load_suite
from harness.evaluation.tasks.generate import Generate
from harness.manager import Plugins
from harness.types import Output
from tests.conftest import run_warm, write_jsonl
from tests.evaluation.suite_files import BASE, PLUGINS

# ---- in a suite's file ---------------------------------------------------------------------------


def load(folder, scorers, overrides=(), plugins=PLUGINS, mirror=None, **changes):
    file = folder / "answers.yaml"
    written = {**yaml.safe_load(file.read_text()), "scorers": scorers, **changes}
    file.write_text(yaml.safe_dump(written, sort_keys=False))
    where = Where(mirror=mirror)
    return load_suite(file, dict(overrides), plugins=plugins, base_model=BASE, where=where)


def test_a_name_and_a_mapping_say_the_same(folder):
    plain = load(folder, ["rougeL", "bleu"])
    assert (
        load(folder, [{"name": "rougeL"}, {"name": "bleu", "tokenize": "13a"}]).hash == plain.hash
    )
    assert load(folder, ["rougeL", {"name": "bleu", "tokenize": "char"}]).hash != plain.hash
    assert load(folder, ["rougeL", {"name": "bleu", "label": "b"}]).hash != plain.hash


def test_one_scorer_stands_twice_under_labels(folder):
    yes = {"name": "regex", "label": "yes", "pattern": "(?i)yes"}
    suite = load(folder, ["json_valid", {"name": "regex", "pattern": "no"}, yes])
    assert Generate().metrics(suite) == ["json_valid", "regex", "yes"]
    options = {label: options for label, _, options in uses(suite.scorers, PLUGINS)}
    assert options == {
        "json_valid": {"keys": None},
        "regex": {"pattern": "no"},
        "yes": {"pattern": "(?i)yes"},
    }
    written = TypeAdapter(Suite).dump_json(suite)
    assert TypeAdapter(Suite).validate_json(written) == suite, "as a cell's job file has it"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "regex"}, r"missing key 'pattern' in scorer 'regex'"),
        ({"name": "regex", "patern": "x"}, r"unknown key 'patern' in scorer 'regex'.*'pattern'"),
        ({"name": "regex", "pattern": 7}, r"pattern of scorer 'regex': expected text, got 7"),
        ({"name": "regex", "pattern": "(x"}, r"scorer 'regex': the pattern '\(x' is no regular"),
        ({"name": "regex", "pattern": ""}, r"scorer 'regex': the pattern is empty"),
        ({"name": "json_valid", "keys": "a"}, r"keys of scorer 'json_valid': expected a list"),
        ({"name": "bleu", "tokenize": "14a"}, r"tokenize of scorer 'bleu': expected .*'13a'"),
        (
            {"name": "bleu", "lowercase": "yes"},
            r"lowercase of scorer 'bleu': .*write true or false",
        ),
        ({"name": "exact_match", "case": True}, r"unknown key 'case' in scorer 'exact_match'"),
        ({"name": "bleu", "label": "a b"}, r"invalid label 'a b' of scorer 'bleu'"),
        ({"label": "x"}, r"a scorer is a name, or a mapping with `name`"),
        ("rougeL", r"two scorers are called 'rougeL': give one a `label`"),
        (3, r"expected text or a mapping, got 3"),
    ],
)
def test_a_wrong_entry_is_reported_with_its_line(folder, entry, message):
    with pytest.raises(ConfigError, match=r"answers\.yaml:(8|9|10): .*" + message) as error:
        load(folder, ["rougeL", entry])
    assert "\n" not in str(error.value)


def test_a_wrong_entry_of_an_experiment_is_reported_with_the_experiments_line(folder):
    with pytest.raises(ConfigError, match=r"^the experiment's settings of suite 'answers': miss"):
        load(folder, ["rougeL"], {"scorers": [{"name": "regex"}]})
    with pytest.raises(ConfigError, match=r"^the experiment's settings.*'nowhere/model'"):
        load(folder, ["cosine"], {"embedder": "nowhere/model"})


def test_the_judge_s_metric_is_no_label(folder):
    judge = {"name": "expected_score", "rubric": "Rate it."}
    with pytest.raises(ConfigError, match="'score' is the judge's metric"):
        load(folder, [{"name": "rougeL", "label": "score"}], judge=judge)


def test_only_answers_in_words_take_scorers(folder):
    with pytest.raises(ConfigError, match=r"answers\.yaml:\d+: ask: choice takes no `scorers`"):
        load(folder, ["rougeL"], ask="choice", data="choices.jsonl")


@pytest.mark.parametrize("reference", [None, "", " \n"])
def test_a_reference_that_is_missing_or_blank_is_refused(folder, reference):
    rows = [{"id": "a", "prompt": "x", "reference": "y"}, {"id": "b", "prompt": "x"}]
    rows[1] |= {} if reference is None else {"reference": reference}
    write_jsonl(folder / "asked.jsonl", rows)
    if reference is None:
        message = r"asked\.jsonl: sample b has no reference, which scorer rougeL needs"
        with pytest.raises(DataError, match=message):
            load(folder, ["json_valid", "rougeL"])
        load(folder, ["json_valid", {"name": "regex", "pattern": "x"}])
        load(folder, ["rougeL"], limit=1)
    else:
        with pytest.raises(DataError, match=r"asked\.jsonl.*reference"):
            load(folder, ["rougeL"])


@pytest.mark.parametrize("name", ["must_contain", "must_not_contain"])
def test_facts_that_are_no_texts_are_refused(folder, name):
    write_jsonl(folder / "asked.jsonl", [{"id": "a", "prompt": "x", name: ["60 days", 60]}])
    with pytest.raises(ConfigError, match=rf"answers\.yaml:\d+: .*sample a: `{name}` must be"):
        load(folder, [name])


def test_an_embedder_that_is_not_there(folder, tmp_path):
    for embedder in ("no/such-embedder", "./no-such-folder"):
        with pytest.raises(ConfigError, match=rf"answers\.yaml:\d+: .*{embedder}"):
            load(folder, ["cosine"], embedder=embedder, mirror=tmp_path)
    with pytest.raises(ConfigError, match="where a sentence-transformer is needed"):
        load(folder, ["cosine"], embedder="smollm2-135m")
    load(folder, ["rougeL"], embedder="no/such-embedder")  # nobody asks it


def test_a_model_among_the_options_counts_by_its_content(folder, tiny_model, tmp_path):
    entry = {"name": "bertscore", "model": str(tiny_model), "num_layers": 2}
    suite = load(folder, [entry])
    ((_, _, options),) = uses(suite.scorers, PLUGINS)
    assert options["model"].content_hash
    mirror = tmp_path / "mirror"
    (mirror / "org").mkdir(parents=True)
    (mirror / "org/encoder").symlink_to(tiny_model)
    named = load(folder, [{**entry, "model": "org/encoder"}], mirror=mirror)
    assert named.scorers[0].options["model"]["path"] == str(tiny_model)
    assert named.hash == suite.hash
    with pytest.raises(ConfigError, match=r"answers\.yaml:\d+: model 'org/encodr' cannot be found"):
        load(folder, [{**entry, "model": "org/encodr"}], mirror=mirror)
    with pytest.raises(ConfigError, match=r"num_layers: .* has layers 1 to 2, got 3"):
        load(folder, [{**entry, "num_layers": 3}])


# ---- a scorer of one's own -----------------------------------------------------------------------


def own(*scorers):
    plugins = Plugins(discover=False)
    for instance in scorers:
        plugins.scorers.add(instance.name, instance, "own")
    return plugins


def test_keyword_only_parameters_are_the_options(folder):
    @scorer("longest")
    def longest(output, sample, *, words: "int", unit: str = "words", weight: float = 1.0):
        return weight * float(len(output.split()) <= words)

    plugins = own(longest)
    suite = load(folder, [{"name": "longest", "words": 2, "weight": 3}], plugins=plugins)
    ((_, resolved, options),) = uses(suite.scorers, plugins)
    assert options == {"words": 2, "unit": "words", "weight": 3.0}
    outputs = [Output("a", "one two", 2, False), Output("b", "one two three", 3, False)]
    assert resolved.rate(outputs, [Sample("a"), Sample("b")], None, **options) == [3.0, 0.0]
    with pytest.raises(ConfigError, match="words of scorer 'longest': expected a whole number"):
        load(folder, [{"name": "longest", "words": "two"}], plugins=plugins)


def test_a_scorer_without_options_or_annotations_stays_as_it_was(folder):
    @scorer("length", batch=True)
    def length(outputs, samples, tools):
        return [len(output.text) for output in outputs]

    suite = load(folder, ["length"], plugins=own(length))
    assert suite.scorers == (ScorerUse("length", "length", {}),)
    assert length.rate([Output("a", "four", 1, False)], [Sample("a")], None) == [4]


def test_a_scorer_checks_before_anything_runs(folder):
    def check(samples, *, most):
        if len(samples) > most:
            raise UserError(f"{len(samples)} samples are more than {most}")

    @scorer("few", check=check)
    def few(output, sample, *, most: int):
        return 1.0

    load(folder, [{"name": "few", "most": 8}], plugins=own(few))
    with pytest.raises(ConfigError, match=r"answers\.yaml:7: scorer 'few': 8 samples are more"):
        load(folder, [{"name": "few", "most": 7}], plugins=own(few))


def test_an_option_cannot_be_called_label():
    with pytest.raises(TypeError, match="no option may be called 'label'"):
        scorer("x")(lambda output, sample, *, label: 1.0)


# ---- through the command and the worker ----------------------------------------------------------


def write_answers(small, scorers, **changes):
    file = small.folder / "answers.yaml"
    written = {**yaml.safe_load(file.read_text()), "scorers": scorers, **changes}
    file.write_text(yaml.safe_dump(written))


def test_scores_come_out_under_their_labels(experiment, warm):
    small = experiment(suites=["answers"])
    some = {"name": "regex", "label": "some", "pattern": "(?s).*"}
    write_answers(small, ["sentence_chrf", some, {**some, "label": "never", "pattern": "(?!)"}])
    run_warm(small, warm)
    record = small.records()["base-0"]
    assert record["status"] == "ok", record["error"]
    metrics = record["evaluation"]["suites"]["answers"]["metrics"]
    assert set(metrics) == {"sentence_chrf", "sentence_chrf_own_minus_other", "some", "never"}
    assert (metrics["some"]["value"], metrics["never"]["value"]) == (1.0, 0.0)
    assert metrics["some"]["estimator"]["kind"] == "share"
    assert metrics["sentence_chrf"]["n"] == 8


def test_the_command_refuses_before_anything_runs(experiment, harness):
    small = experiment(suites=["answers"])
    write_answers(small, [{"name": "regex", "pattern": "["}])
    result = harness("run", small.file, "--out", small.out)
    assert (result.code, small.out.exists()) == (2, False)
    assert "answers.yaml:" in result.error
    assert "is no regular expression" in result.error


# ---- corpus scores -------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[0.5], [[1.0] * 9], ["text"], [None, None], [[math.nan] * 10]])
def test_a_corpus_score_is_of_its_kinds_statistics(given):
    with pytest.raises(PluginFault, match="scorer 'own' gave"):
        checked_statistics(given, 1, "scorer 'own'", "corpus_bleu")


def test_statistics_are_numbers_or_none():
    given = [np.arange(10), None]
    found = checked_statistics(given, 2, "scorer 'own'", "corpus_bleu")
    assert found == [[float(i) for i in range(10)], None]


def test_a_corpus_score_has_no_negative_control():
    with pytest.raises(TypeError, match="scorer 'own': a corpus score has no negative control"):
        scorer("own", kind="corpus_bleu", reference=True)(lambda output, sample: [1.0] * 10)
    names = {one.name for one in PLUGINS.scorers.things.values() if one.controlled}
    assert {"sentence_bleu", "sentence_chrf"} <= names
    assert not {"bleu", "chrf"} & names


# ---- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [1.01, -0.01, np.float32(1.0001)])
def test_a_score_beyond_the_bounds_that_its_scorer_states_is_its_fault(score):
    with pytest.raises(PluginFault, match=r"scorer 'near' gave .*, beyond its bounds 0.0 to 1.0"):
        checked([0.5, score], 2, "scorer 'near'", (0.0, 1.0))
    assert checked([0.5, score], 2, "scorer 'near'") == [0.5, score]
    assert checked([9.0, None], 2, "scorer 'near'", (0.0, None)) == [9.0, None]


def test_rounding_and_nan_are_within_bounds():
    scores = [np.float32(1.000001), math.nan, 0, None]
    assert checked(scores, 4, "scorer 'near'", (0.0, 1.0)) == scores


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (1.0, 1.0)])
def test_bounds_are_the_least_and_the_greatest(bounds):
    with pytest.raises(TypeError, match=r"scorer 'odd': bounds are \(least, greatest\)"):
        scorer("odd", bounds=bounds)(lambda output, sample: 1.0)


def test_every_built_in_scorer_that_is_no_share_states_its_range():
    free = {one.name for one in PLUGINS.scorers.things.values() if one.bounds is None}
    shares = {one.name for one in PLUGINS.scorers.things.values() if one.kind == "share"}
    assert free - shares == {"bertscore"}  # an F1 of cosines, which may be negative: no range
