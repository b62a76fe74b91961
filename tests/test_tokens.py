"""What is trained on, scored and shown: exactly the answers, with what ends them."""

import copy

import pytest

from harness.errors import UserError
from harness.tokens import IGNORED, encode_prompt, encode_row, end_tokens, render
from harness.types import Row, Sample

SYSTEM = {"role": "system", "content": "You answer for a small shop."}
ASK = {"role": "user", "content": "Do you sell lamps?"}
ANSWER = {"role": "assistant", "content": "Yes, a red lamp."}
ASK_MORE = {"role": "user", "content": "And tents?"}
ANSWER_MORE = {"role": "assistant", "content": "No tents."}
TALK = Row("talk", messages=(SYSTEM, ASK, ANSWER, ASK_MORE, ANSWER_MORE))

# Drops what the assistant said before, as templates that strip earlier "thinking" do.
FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] != 'assistant' or loop.last %}{{ m['content'] }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def counted(tokenizer, encoded):
    """The text of each run of tokens that count."""
    runs, inside = [], False
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if label == IGNORED:
            inside = False
            continue
        assert label == token
        if not inside:
            runs.append([])
        runs[-1].append(token)
        inside = True
    return [tokenizer.decode(run) for run in runs]


def test_only_the_assistants_turns_count_each_with_its_end_token(tokenizer):
    encoded = encode_row(tokenizer, TALK)
    assert counted(tokenizer, encoded) == ["Yes, a red lamp.<|im_end|>", "No tents.<|im_end|>"]


def test_the_tokens_are_those_of_the_template(tokenizer):
    encoded = encode_row(tokenizer, TALK)
    whole = tokenizer.apply_chat_template(list(TALK.messages), tokenize=False)
    assert encoded.input_ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert encoded.cut == 0


def test_an_end_token_that_is_also_padding_counts(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    encoded = encode_row(tokenizer, Row("one", messages=(ASK, ANSWER)))
    assert [i for i in encoded.labels if i != IGNORED][-1] == tokenizer.eos_token_id
    # the end of the user's turn is the same token and does not count
    assert encoded.labels[encoded.input_ids.index(tokenizer.eos_token_id)] == IGNORED


def test_loss_all_counts_every_token(tokenizer):
    encoded = encode_row(tokenizer, TALK, loss="all")
    assert encoded.labels == encoded.input_ids


def test_what_max_length_cuts_off_the_end_is_counted(tokenizer):
    whole = encode_row(tokenizer, TALK)
    short = encode_row(tokenizer, TALK, max_length=20)
    assert short.input_ids == whole.input_ids[:20]
    assert short.labels == whole.labels[:20]
    assert short.cut == len(whole.input_ids) - 20
    assert encode_row(tokenizer, TALK, max_length=len(whole.input_ids)).cut == 0


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"rewrites earlier turns, so turn 3 .*data\.chat_template"):
        encode_row(tokenizer, TALK, chat_template=FORGETS)


def test_a_template_that_rewrites_earlier_turns_serves_a_single_answer(tokenizer):
    encoded = encode_row(tokenizer, Row("one", messages=(ASK, ANSWER)), chat_template=FORGETS)
    assert counted(tokenizer, encoded) == ["Yes, a red lamp.<|im_end|>"]


def test_a_template_of_the_experiment_replaces_the_tokenizers(tokenizer):
    plain = "{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}"
    encoded = encode_row(tokenizer, Row("one", messages=(ASK, ANSWER)), chat_template=plain)
    assert counted(tokenizer, encoded) == ["Yes, a red lamp.<|endoftext|>"]


def test_a_conversation_without_template_is_refused(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(UserError, match=r"no chat template: set data\.chat_template"):
        encode_row(bare, TALK)


def test_of_prompt_and_completion_the_completion_counts(tokenizer):
    row = Row("one", prompt="Lamps:", completion=" red and blue")
    encoded = encode_row(tokenizer, row)
    assert tokenizer.decode(encoded.input_ids) == "Lamps: red and blue<|im_end|>"
    assert counted(tokenizer, encoded) == [" red and blue<|im_end|>"]


def test_of_a_text_everything_counts(tokenizer):
    encoded = encode_row(tokenizer, Row("one", text="A lamp stood there."))
    assert counted(tokenizer, encoded) == ["A lamp stood there.<|im_end|>"]


def test_a_prompt_ends_where_the_answer_begins(tokenizer):
    sample = Sample("one", messages=(SYSTEM, ASK))
    prompt = encode_prompt(tokenizer, sample)
    assert tokenizer.decode(prompt).endswith(
        "Do you sell lamps?<|im_end|>\n<|im_start|>assistant\n"
    )
    trained = encode_row(tokenizer, Row("one", messages=(SYSTEM, ASK, ANSWER)))
    # what the model was trained to continue is what it is asked to continue
    assert trained.input_ids[: len(prompt)] == prompt
    assert trained.labels[len(prompt)] != IGNORED
    assert set(trained.labels[: len(prompt)]) == {IGNORED}


def test_a_prompt_without_messages_is_plain_text(tokenizer):
    prompt = encode_prompt(tokenizer, Sample("one", prompt="Lamps:"))
    assert tokenizer.decode(prompt) == "Lamps:"


class Config:
    """A generation config that names an end token of its own."""

    eos_token_id = (5, 7)


def test_end_tokens_are_the_tokenizers_the_models_and_the_templates(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.eos_token = "<|endoftext|>"
    text_end = other.convert_tokens_to_ids("<|endoftext|>")
    turn_end = other.convert_tokens_to_ids("<|im_end|>")
    assert turn_end != text_end
    assert end_tokens(other, None, Config) == sorted({5, 7, text_end, turn_end})
    assert end_tokens(tokenizer, None, object()) == [turn_end]


def test_rendering_is_the_templates(tokenizer):
    assert render(tokenizer, [ASK]) == "<|im_start|>user\nDo you sell lamps?<|im_end|>\n"
