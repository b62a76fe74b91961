"""Scores and answers of every family are those of a plain forward pass of each request alone."""

import pytest

from harness.models.inference.loglikelihood import Sharing
from tests.zoo import zoo


@pytest.mark.parametrize("family", zoo.SHORT)
def test_a_family_is_scored_and_answers_as_its_own_forward_pass(family):
    outcome = zoo.tried(family)
    assert outcome.way in {"shared", "plain"}, outcome


def test_families_of_full_attention_share():
    for family in ("llama", "qwen2", "gpt2", "opt"):
        assert zoo.tried(family).way == "shared"


def test_sharing_where_it_changes_scores_is_reported(monkeypatch):
    monkeypatch.setattr("harness.models.language_model.sharing", lambda model: Sharing(None))
    outcome = zoo.tried("roberta")  # its positions are counted from the padding in a text
    assert outcome.way == "wrong"
    assert outcome.off > 0.01


def test_sharing_where_layers_attend_their_own_way_is_reported(monkeypatch):
    monkeypatch.setattr("harness.models.language_model.sharing", lambda model: Sharing(None))
    assert zoo.tried("gptj").way == "wrong"


def test_a_head_without_its_multiplier_is_reported(monkeypatch):
    def matrix_alone(model, body, states):
        return model.lm_head(states).float()

    monkeypatch.setattr("harness.models.inference.lm_head._head_logits", matrix_alone)
    monkeypatch.setattr("harness.models.inference.lm_head._is_body", lambda model, body: True)
    outcome = zoo.tried("falcon_h1")
    assert outcome.way == "wrong"
    assert outcome.off > 0.01


def test_the_page_holds_no_number_that_a_processor_decides():
    why = "log-probabilities with shared prefixes differ by 1.7e-02 a token"
    one, other = (zoo.Outcome("bart", "plain", why.replace("1.7e-02", n)) for n in ("0.59", "2.3"))
    assert zoo.page([one]) == zoo.page([other])
    assert "| bart | plain | log-probabilities with shared prefixes differ |" in zoo.page([one])


@pytest.mark.parametrize("family", ["llama", "roberta", "falcon_h1"])
def test_the_page_says_of_a_family_what_is_measured_here(family):
    outcome = zoo.tried(family)
    assert f"| {family} | {outcome.way} | {zoo.reason(outcome)} |" in zoo.PAGE.read_text(
        encoding="utf-8"
    )


def test_an_encoder_that_sees_what_follows_is_refused():
    from harness.errors import UserError
    from harness.models.inference.loglikelihood import why_not_shared

    model = zoo.built("bert")
    model.config.is_decoder = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    with pytest.raises(UserError, match="attends to the tokens after a position"):
        why_not_shared(model)


# one test a family, so that workers share them out
@pytest.mark.slow
@pytest.mark.parametrize("family", zoo.sampled(zoo.rows_shown()))
def test_a_family_is_what_its_row_says(family):
    outcome = zoo.tried(family)
    assert outcome.way in {"shared", "plain", "refused"}
    assert zoo.row(outcome) == zoo.rows_shown()[family]


@pytest.mark.slow
@pytest.mark.parametrize("family", zoo.NOT_BUILT)
def test_a_family_that_cannot_be_built_is_listed_so(family):
    assert zoo.tried(family).way == "not built"


def test_the_page_has_every_family_and_counts_them():
    ways = {family: row.split(" | ")[1] for family, row in zoo.rows_shown().items()}
    ways |= dict.fromkeys(zoo.NOT_BUILT, "not built")
    assert set(ways) == set(zoo.families())
    counted = zoo.counted([zoo.Outcome(family, way) for family, way in ways.items()])
    assert f"\n{counted}.\n" in zoo.PAGE.read_text(encoding="utf-8")


def alone_and_packed(family):
    """(whether packed rows depend on each other, whether rows beyond the positions fail)."""
    import random

    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from harness.training import packing

    model = zoo.built(family)
    draw = random.Random(0)
    rows = [draw.choices(range(3, zoo.VOCABULARY), k=length) for length in (16, 13)]
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    depends = limited = False
    try:
        largest, off = packing.difference(model, collator, rows)
        depends = off > 0.001 * (1 + largest)
    except ValueError:  # kernels that keep rows apart are missing: refused before training
        pass
    long = torch.tensor([draw.choices(range(3, zoo.VOCABULARY), k=zoo.LENGTH + 8)])
    try:
        with torch.no_grad():
            model(input_ids=long, use_cache=False)
    except (IndexError, RuntimeError, ValueError):
        limited = True
    return depends, limited


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bloom", "gpt_oss", "codegen"])
def test_what_is_known_of_a_family_at_plan_is_what_it_does(family):
    from harness.models import families

    known = family in families.CONTAMINATING, family in families.LIMITED
    assert alone_and_packed(family) == known


@pytest.mark.slow
def test_what_is_known_of_families_at_plan_is_what_they_do():
    from harness.models import families

    off = {}
    for family in zoo.sampled(zoo.families()):
        known = family in families.CONTAMINATING, family in families.LIMITED
        try:
            measured = alone_and_packed(family)
        except Exception:
            if family not in zoo.NOT_BUILT:
                with pytest.raises(Exception):  # noqa: B017, PT011
                    zoo.built(family)
            continue
        if measured != known:
            off[family] = measured
    assert off == {}
