"""What a user wrote and would run for ever: patterns, templates, long trainings, NaN options."""

import re
import signal

import pytest

from harness import Sample
from harness.errors import UserError
from harness.system.security.time_limit import TooSlow, time_limit
from harness.types import Output


def test_a_pattern_that_backtracks_for_ever_is_stopped():
    slow = pytest.raises(TooSlow, match=r"the pattern took more than 0\.2 s")
    with slow, time_limit(0.2, "the pattern"):
        re.search("(a+)+b", "a" * 60)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_is_quick_enough_is_left_alone():
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(60, "nothing"):
        found = re.search("a+b", "aab")
    assert found
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_slow_pattern_of_a_suite_names_pattern_and_sample(monkeypatch):
    from harness.plugins.scorers import format

    monkeypatch.setattr(format, "MATCH_SECONDS", 0.2)
    sample, output = Sample(id="s1", prompt="x"), Output("s1", "a" * 60, 60, False)
    with pytest.raises(UserError, match=r"pattern '\(a\+\)\+b', on the answer to s1, took more"):
        format.regex.rate([output], [sample], None, pattern="(a+)+b")


@pytest.mark.parametrize("pattern", ["a{99999999999999999999}", "(" * 5000 + ")" * 5000, "("])
def test_a_pattern_that_is_none_is_refused_before_anything_runs(pattern):
    from harness.plugins.scorers.format import regex

    with pytest.raises(UserError, match="is no regular expression"):
        regex.check([], pattern=pattern)


def test_a_template_that_never_ends_is_refused_by_plan(harness, experiment):
    small = experiment(methods=["base", "lora"])
    loop = "{{ messages }}" + "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4
    small = small.write(data={**small.content["data"], "chat_template": loop})
    ran = harness("plan", small.file)
    assert ran.code == 2, ran.stderr
    assert "the chat template took more than 5 s: simplify it" in ran.stderr


def test_a_long_training_is_planned_from_its_first_steps(harness, experiment):
    small = experiment(methods=["base", "lora"])
    small = small.write(budget={**small.content["budget"], "steps": 8_000_000})
    assert harness("plan", small.file).code == 0


NAN = {
    "plan": ["plan", "experiment.yaml", "--price-per-hour"],
    "compare": ["compare", "a", "b", "--confidence"],
    "export nats": ["export", "a", "--to", "b", "--merge", "--max-difference"],
    "export share": ["export", "a", "--to", "b", "--merge", "--max-changed"],
}


@pytest.mark.parametrize("value", ["nan", "-NaN", "inf"])
@pytest.mark.parametrize("what", NAN)
def test_no_option_is_nan(harness, tmp_path, what, value):
    ran = harness(*NAN[what], value, cwd=tmp_path)
    assert ran.code == 2
    assert "Invalid value" in ran.error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_suites_that_is_not_there(harness):
    ran = harness("suites", "--suites", "nope")
    assert (ran.code, ran.stdout, ran.error) == (2, "", "Error: --suites nope: no such folder")


@pytest.mark.parametrize("name", ["~nosuchuser/model", "x" * 300])
@pytest.mark.parametrize("key", ["model", "data.train"])
def test_names_that_no_file_has(harness, experiment, name, key):
    small = experiment(methods=["base", "lora"])
    ran = harness("plan", small.file, "--set", f"{key}={name}")
    assert ran.code == 2
    assert ran.error.startswith("Error: ")
    assert name[:40] in ran.error


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "the chat template is invalid Jinja: .*its line 1"),
        ("the same", "the chat template never uses `messages`: every prompt would be the same"),
    ],
)
def test_a_template_that_is_none_is_refused_by_plan(experiment, template, message):
    from harness.config.experiment import load_experiment
    from harness.manager import Plugins
    from harness.planning.plan import Settings, make_plan

    small = experiment(methods=["base", "lora"])
    small = small.write(data={**small.content["data"], "chat_template": template})
    with pytest.raises(UserError, match=r"experiment\.yaml:\d+: " + message):
        make_plan(load_experiment(small.file), Plugins(), Settings())
