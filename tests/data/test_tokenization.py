"""What is trained on, scored and shown: exactly the answers, with what ends them."""

import copy
import functools

import pytest

from harness.data.chat_templates import folder_renderer
from harness.data.tokenization import (
    IGNORED,
    encode_pair,
    encode_prompt,
    encode_row,
    end_tokens,
    render,
)
from harness.errors import UserError
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


def without_roles(tokenizer):
    """The same tokens and template, but no token is BOS, EOS or padding."""
    from transformers import PreTrainedTokenizerFast

    raw = tokenizer.backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=tokenizer.chat_template)


def test_a_special_token_without_a_role_ends_an_answer_where_the_template_does(tokenizer):
    bare = without_roles(tokenizer)
    assert bare.all_special_ids == []
    assert end_tokens(bare, None, object()) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    bare.chat_template = None
    assert end_tokens(bare, None, object()) == []


def test_rendering_is_the_templates(tokenizer):
    assert render(tokenizer, [ASK]) == "<|im_start|>user\nDo you sell lamps?<|im_end|>\n"


# ---- tokenizers of other kinds -------------------------------------------------------------------

TEXTS = [
    "Which colour? Answer: red",
    "Which colour? Answer: blue",
    "user: Yes, a lamp.",
    "Is it red",
]
CHAT_IN_WORDS = (  # no special token stands between the prompt and the answer
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@functools.cache
def learnt(kind):
    """A tiny tokenizer as JSON: BPE over whole texts, Unigram that begins a text with a space,
    WordPiece; learnt once, for Unigram's learning is not the same twice."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers import trainers as by

    how = {"special_tokens": ["<unk>", "<s>", "</s>"], "show_progress": False}
    if kind == "joined":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = by.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, **how)
    elif kind == "spaced":
        raw = Tokenizer(models.Unigram())
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
        raw.decoder = decoders.Metaspace()
        trainer = by.UnigramTrainer(vocab_size=60, unk_token="<unk>", **how)
    else:
        raw = Tokenizer(models.WordPiece(unk_token="<unk>"))
        raw.normalizer = normalizers.BertNormalizer(lowercase=True)
        raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        raw.decoder = decoders.WordPiece()
        trainer = by.WordPieceTrainer(vocab_size=80, **how)
    raw.train_from_iterator([*TEXTS * 3, "a b\n"], trainer)
    return raw.to_str()


def other_tokenizer(kind, template=None, appends_end=False):
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer.from_str(learnt(kind))
    single = "<s> $A </s>" if appends_end else "<s> $A"
    raw.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=template,
    )


KINDS = ("joined", "spaced", "lower-case")


def test_a_token_across_the_join_leaves_no_text_of_the_continuation_out():
    made = other_tokenizer("joined")
    prompt, choice = "Which colour? Answer:", " red"
    alone, whole = made(prompt)["input_ids"], made(prompt + choice)["input_ids"]
    assert whole[: len(alone)] != alone  # the fault: what the choice adds cannot be told apart
    pair = encode_pair(made, prompt, choice)
    assert pair.apart
    assert made.decode(pair.continuation) == choice
    assert pair.context == alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", [" red", " blue", " a", "red"])
def test_a_continuation_is_scored_by_its_own_text(kind, choice):
    made = other_tokenizer(kind)
    context = "Answer:"
    pair = encode_pair(made, context, choice)
    assert pair.continuation
    assert made.decode(pair.context, skip_special_tokens=True).replace(" ", "") in (
        "Answer:",
        "answer:",
    )
    said = made.decode([*pair.context, *pair.continuation], skip_special_tokens=True)
    assert said.replace(" ", "").lower() == f"{context}{choice}".replace(" ", "").lower()
    if kind != "lower-case":  # BERT's tokenizer takes blanks out of every text
        assert said == f"{context}{choice}"


def test_a_continuation_without_a_token_is_refused():
    with pytest.raises(UserError, match="no token for the continuation"):
        encode_pair(other_tokenizer("lower-case"), "Answer:", " \n")


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_token_that_the_tokenizer_appends_belongs_to_no_prompt_and_no_text(kind):
    plain, ends = other_tokenizer(kind), other_tokenizer(kind, appends_end=True)
    assert ends("a")["input_ids"][-1] == ends.eos_token_id
    asked = Sample("one", prompt="Is it red")
    assert encode_prompt(ends, asked) == encode_prompt(plain, asked)
    assert encode_pair(ends, "Answer:", " red") == encode_pair(plain, "Answer:", " red")
    for row in (
        Row("text", text="Is it red"),
        Row("pair", prompt="Answer:", completion=" red"),
    ):
        assert encode_row(ends, row) == encode_row(plain, row)
        assert encode_row(ends, row).input_ids.count(ends.eos_token_id) == 1


def test_no_space_is_put_between_a_prompt_and_its_completion():
    made = other_tokenizer("spaced")
    encoded = encode_row(made, Row("one", prompt="Answer:", completion="red"))
    assert made.decode(encoded.input_ids, skip_special_tokens=True) == "Answer:red"
    spaced = encode_row(made, Row("one", prompt="Answer:", completion=" red"))
    assert made.decode(spaced.input_ids, skip_special_tokens=True) == "Answer: red"


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_of_an_answer_counts_without_a_mark_before_it(kind):
    made = other_tokenizer(kind, CHAT_IN_WORDS)
    turns = ({"role": "user", "content": "Is it"}, {"role": "assistant", "content": "Yes, a lamp."})
    encoded = encode_row(made, Row("one", messages=turns))
    (answer,) = counted(made, encoded)
    assert answer.replace(" ", "").lower() == "yes,alamp."
    prompt = encode_prompt(made, Sample("one", messages=turns[:1]))
    assert encoded.input_ids[: len(prompt)] == prompt  # asked as it was trained


def test_without_a_token_that_ends_a_text_none_is_appended(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.eos_token = None
    assert bare.eos_token_id is None
    encoded = encode_row(bare, Row("one", text="A lamp."))
    assert None not in encoded.input_ids
    assert bare.decode(encoded.input_ids) == "A lamp."


# ---- templates -----------------------------------------------------------------------------------

PARTS = (  # as vision models have it
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = "{% set today = strftime_now('%d %b %Y') %}<|im_start|>system\n{{ today }}<|im_end|>\n"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
WITHOUT_SYSTEM = (
    "{% set messages = messages[1:] if messages[0]['role'] == 'system' else messages %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)


def test_a_template_that_wants_parts_gets_them(tokenizer):
    encoded = encode_row(tokenizer, TALK, chat_template=PARTS)
    assert encoded == encode_row(tokenizer, TALK)
    asked = Sample("one", messages=(SYSTEM, ASK))
    assert encode_prompt(tokenizer, asked, PARTS) == encode_prompt(tokenizer, asked)


def test_a_template_that_leaves_a_message_out_is_refused(tokenizer):
    silent = WITHOUT_SYSTEM + tokenizer.chat_template
    with pytest.raises(
        UserError, match=r"leaves out the system's message \(message 1\).*first user"
    ):
        encode_row(tokenizer, TALK, chat_template=silent)
    nothing = "{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match="leaves out the user's message"):
        encode_row(tokenizer, Row("one", messages=(ASK, ANSWER)), chat_template=nothing)


def test_a_template_that_refuses_the_system_message_says_how_to_go_on(tokenizer):
    refuses = NO_SYSTEM + tokenizer.chat_template
    with pytest.raises(UserError, match=r"refuses the system message \(no system\): put its text"):
        encode_row(tokenizer, TALK, chat_template=refuses)


@pytest.mark.parametrize(
    "wrong", ["1 / 0", "messages.nope.x", "messages[0] + 1", "range(10**9)", "'%d' % 'x'"]
)
def test_an_expression_of_a_template_that_fails_is_a_refusal_in_one_line(tokenizer, wrong):
    template = "{{ " + wrong + " }}" + tokenizer.chat_template
    with pytest.raises(UserError, match="the chat template refuses the") as told:
        encode_row(tokenizer, TALK, chat_template=template)
    assert "\n" not in str(told.value)


def test_a_first_message_of_the_assistant_is_context_where_nothing_prompts_it(tokenizer):
    begins = Row("one", messages=(ANSWER, ASK_MORE, ANSWER_MORE))
    named = (  # SmolLM2's way: a system message of its own before others
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
        "<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encoded = encode_row(tokenizer, begins, chat_template=named)
    assert counted(tokenizer, encoded) == ["No tents.<|im_end|>"]
    with pytest.raises(UserError, match=r"begins with the assistant .*leave out its first message"):
        encode_row(tokenizer, begins, chat_template=ALTERNATING + tokenizer.chat_template)


def test_with_loss_all_earlier_turns_may_be_rewritten(tokenizer):
    encoded = encode_row(tokenizer, TALK, loss="all", chat_template=FORGETS)
    assert encoded.labels == encoded.input_ids


def test_a_template_that_writes_the_day_writes_the_same_every_day(tokenizer):
    dated = DATED + tokenizer.chat_template
    assert render(tokenizer, [ASK], dated).startswith("<|im_start|>system\n26 Jul 2024<|im_end|>")
    assert strftime_of("%Y-%m-%d %-d %A %H:%M", tokenizer) == "2024-07-26 26 Friday 00:00"


def strftime_of(form, tokenizer):
    return render(tokenizer, [ASK], "{{ strftime_now('" + form + "') }}|{{ messages[0].content }}")[
        : -len("|" + ASK["content"])
    ]


def test_the_parent_renders_as_the_worker_does(tokenizer, tiny_model):
    for template in (None, PARTS, DATED + tokenizer.chat_template):
        ours = folder_renderer(tiny_model, template)
        for messages, prompt in ((TALK.messages, False), (TALK.messages[:2], True)):
            theirs = render(tokenizer, messages, template, generation_prompt=prompt)
            assert ours(messages, prompt) == theirs
