"""Scores and answers of every family are those of a plain forward pass of each request alone."""

import pytest
import zoo


@pytest.mark.parametrize("family", zoo.SHORT)
def test_a_family_is_scored_and_answers_as_its_own_forward_pass(family):
    outcome = zoo.tried(family)
    assert outcome.way in {"shared", "plain"}, outcome


def test_families_of_full_attention_share():
    for family in ("llama", "qwen2", "gpt2", "opt"):
        assert zoo.tried(family).way == "shared"


def test_an_encoder_that_sees_what_follows_is_refused():
    from harness.errors import UserError
    from harness.scoring import why_not_shared

    model = zoo.built("bert")
    model.config.is_decoder = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    with pytest.raises(UserError, match="looks at the tokens after a place"):
        why_not_shared(model)


@pytest.fixture(scope="module")
def outcomes():
    return [zoo.tried(family) for family in zoo.families()]


@pytest.mark.slow
def test_no_family_is_wrong(outcomes):
    assert [one for one in outcomes if one.way == "wrong"] == []


@pytest.mark.slow
def test_the_list_of_families_that_cannot_be_built_is_right(outcomes):
    assert {one.family for one in outcomes if one.way == "not built"} == set(zoo.NOT_BUILT)


@pytest.mark.slow
def test_the_table_of_architectures_is_that_of_the_zoo(outcomes):
    assert zoo.PAGE.read_text(encoding="utf-8") == zoo.page(outcomes)
