"""Tool calls through chat templates of several kinds: what is trained on, and what is refused."""

import json
from importlib.resources import files

import pytest

from harness.data.chat_templates import folder_renderer
from harness.data.tokenization import IGNORED, encode_prompt, encode_row
from harness.errors import UserError
from harness.types import Row, Sample
from tests.data.test_tokenization import counted

SYSTEM = {"role": "system", "content": "You answer for a small shop."}
ASK = {"role": "user", "content": "How warm is it in Oslo?"}
FUNCTION = {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}
CALL = {"type": "function", "function": FUNCTION}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "12 degrees"}
ANSWER = {"role": "assistant", "content": "It has 12 degrees."}
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
)

PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
HERMES = (  # tools in the system's turn, calls in tags, results as the user's turn
    "{% if tools %}<|im_start|>system\nFunctions:{% for t in tools %} {{ t | tojson }}{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>"
    "{{ m.content }}</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}" + PROMPT
)
ARGUMENTS_AS_TEXT = HERMES.replace("c.function.arguments | tojson", "c.function.arguments")
NULL_CONTENT = HERMES.replace(
    "{{ m.content }}{% for c",
    "{% if m.content is none %}{% elif m.content == '' %}{{ raise_exception('empty content') }}"
    "{% else %}{{ m.content }}{% endif %}{% for c",
)
LLAMA = (  # one call, as the whole turn, its arguments called parameters
    "<|begin|>{% for m in messages %}<|im_start|>{{ 'ipython' if m.role == 'tool' else m.role }}"
    "\n{% if loop.first and tools %}{{ tools | tojson }}\n{% endif %}{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call only') }}{% endif %}"
    "{% set c = m.tool_calls[0].function %}"
    '{"name": "{{ c.name }}", "parameters": {{ c.arguments | tojson }}}'
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}" + PROMPT
)
MISTRAL = (  # tools before the last question, ids of nine characters, no prompt of the answer
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.index0 == ns.last %}[TOOLS] {{ tools | tojson }}[/TOOLS]{% endif %}"
    "[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
    "{% if c.id is not defined or c.id | length != 9 %}"
    "{{ raise_exception('ids of nine characters') }}{% endif %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, '
    '"id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]<|im_end|>'
    "{% elif m.role == 'tool' %}[RESULT] {{ m.tool_call_id }} {{ m.content }}[/RESULT]"
    "{% elif m.role == 'assistant' %}{{ m.content }}<|im_end|>{% else %}{{ m.content }}"
    "{% endif %}{% endfor %}"
)

ARGUMENTS = json.dumps(FUNCTION["arguments"])
TAGGED = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
BARE = f'{{"name": "weather", "parameters": {ARGUMENTS}}}'
LISTED = f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ARGUMENTS}, "id": "000000000"}}]'
WRITTEN = {
    "hermes": (HERMES, TAGGED),
    "arguments as text": (ARGUMENTS_AS_TEXT, TAGGED),
    "null content": (NULL_CONTENT, TAGGED),
    "llama": (LLAMA, BARE),
    "mistral": (MISTRAL, LISTED),
}
TALK = Row("talk", messages=(SYSTEM, ASK, CALLS, RESULT, ANSWER), tools=TOOLS)


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_call_and_the_answer_count_and_nothing_else_does(tokenizer, kind):
    template, call = WRITTEN[kind]
    encoded = encode_row(tokenizer, TALK, chat_template=template)
    lead = " " if kind == "mistral" else ""
    runs = [run.removeprefix(lead) for run in counted(tokenizer, encoded)]
    assert runs == [f"{call}<|im_end|>", "It has 12 degrees.<|im_end|>"]
    text = tokenizer.decode(encoded.input_ids)
    assert "The weather of a city." in text  # the definitions are there, and do not count
    assert "12 degrees" in text.replace("It has 12 degrees.", "")  # and so are results
    # what is answered at evaluation begins where training's loss does
    sample = Sample("one", messages=(SYSTEM, ASK), tools=TOOLS)
    prompt = encode_prompt(tokenizer, sample, template)
    whole = encode_row(
        tokenizer, Row("one", messages=(SYSTEM, ASK, CALLS), tools=TOOLS), chat_template=template
    )
    assert whole.input_ids[: len(prompt)] == prompt
    assert [label != IGNORED for label in whole.labels].index(True) == len(prompt)


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_whole_call_is_the_answers_own_text(tokenizer, kind):
    row = Row("one", messages=(ASK, CALLS), tools=TOOLS)
    encoded = encode_row(tokenizer, row, chat_template=WRITTEN[kind][0])
    own = [
        label
        for label, framing in zip(encoded.labels, encoded.framing, strict=True)
        if label != IGNORED and not framing
    ]
    assert own == [label for label in encoded.labels if label != IGNORED]


def test_two_calls_and_their_results_with_ids_of_their_own(tokenizer):
    calls = [{"id": f"call_{i}", **CALL} for i in (1, 2)]
    results = [{**RESULT, "content": f"of {i}", "tool_call_id": f"call_{i}"} for i in (2, 1)]
    row = Row("two", messages=(ASK, {**CALLS, "tool_calls": calls}, *results, ANSWER), tools=TOOLS)
    encoded = encode_row(tokenizer, row, chat_template=MISTRAL)
    text = tokenizer.decode(encoded.input_ids)
    assert "[RESULT] 000000001 of 2[/RESULT][RESULT] 000000000 of 1[/RESULT]" in text
    both = encode_row(tokenizer, row, chat_template=HERMES)
    assert counted(tokenizer, both)[0] == TAGGED * 2 + "<|im_end|>"
    with pytest.raises(UserError, match=r"refuses the conversation \(one call only\)"):
        encode_row(tokenizer, row, chat_template=LLAMA)


def test_text_beside_a_call_is_written_too_or_refused(tokenizer):
    beside = {**CALLS, "content": "I look it up."}
    row = Row("one", messages=(ASK, beside), tools=TOOLS)
    encoded = encode_row(tokenizer, row, chat_template=HERMES)
    assert counted(tokenizer, encoded) == [f"I look it up.{TAGGED}<|im_end|>"]
    with pytest.raises(UserError, match="leaves out the assistant's tool call, or its text"):
        encode_row(tokenizer, row, chat_template=LLAMA)


def test_a_template_without_calls_or_without_tools_is_refused(tokenizer):
    called = Row("called", messages=(ASK, CALLS, RESULT, ANSWER))
    with pytest.raises(UserError, match=r"leaves out the assistant's tool call.*\(message 2\)"):
        encode_row(tokenizer, called)  # the model's own template writes texts alone
    offered = Row("offered", messages=(ASK, ANSWER), tools=TOOLS)
    with pytest.raises(UserError, match=r"leaves out the definitions of the tools: set"):
        encode_row(tokenizer, offered)
    with pytest.raises(UserError, match=r"leaves out the definitions of the tools"):
        encode_prompt(tokenizer, Sample("offered", messages=(ASK,), tools=TOOLS))
    with pytest.raises(UserError, match=r"sample plain offers tools and its prompt is plain text"):
        encode_prompt(tokenizer, Sample("plain", prompt="Oslo?", tools=TOOLS))
    no_results = HERMES.replace("{{ m.content }}</tool_response>", "</tool_response>")
    with pytest.raises(UserError, match=r"leaves out the tool's message \(message 3\)"):
        encode_row(tokenizer, called, chat_template=no_results)
    without_tools = Row("called", messages=called.messages)
    assert encode_row(tokenizer, without_tools, chat_template=HERMES).labels


def test_the_parent_renders_calls_as_the_worker_does(tokenizer, tiny_model):
    for template, _ in WRITTEN.values():
        ours = folder_renderer(tiny_model, template)
        encoded = encode_row(tokenizer, TALK, chat_template=template)
        text = ours(TALK.messages, False, tools=TALK.tools)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == encoded.input_ids


def test_a_folder_may_have_a_template_of_its_own_for_tools(tmp_path, tiny_model):
    for file in tiny_model.iterdir():
        if file.suffix in (".json", ".jinja"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(HERMES)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    encoded = encode_row(tokenizer, TALK)
    assert counted(tokenizer, encoded)[0] == f"{TAGGED}<|im_end|>"
    text = folder_renderer(tmp_path, None)(TALK.messages, False, tools=TOOLS)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == encoded.input_ids


@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1", "qwen3_instruct_2507", "gptoss"])
def test_templates_of_models_that_call_tools(tokenizer, name):
    file = files("trl") / "chat_templates" / f"{name}.jinja"
    if not file.is_file():
        pytest.skip("this release of trl has no such template")
    encoded = encode_row(tokenizer, TALK, chat_template=file.read_text())
    call, answer = counted(tokenizer, encoded)
    assert "weather" in call
    assert ARGUMENTS in call
    assert "12 degrees" not in call
    assert "It has 12 degrees." in answer
