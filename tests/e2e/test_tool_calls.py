"""A model that is taught to call tools, from rows to the scores of its calls."""

import gzip
import json
import random

import pytest
import yaml

TEMPLATE = (  # in the manner of Hermes; SmolLM2's own writes neither tools nor calls
    "<|im_start|>system\nCall one of:"
    "{% for t in tools or [] %} {{ t.function.name }}"
    "({{ t.function.parameters.properties | join(', ') }}){% endfor %}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARAMETERS = {
    "weather": {"city": "string", "days": "integer"},
    "price": {"item": "string", "currency": "string"},
    "convert": {"amount": "number", "unit": "string", "into": "string"},
}
TOOLS = [
    {
        "name": name,
        "description": f"The function {name}.",
        "parameters": {
            "type": "object",
            "properties": {key: {"type": kind} for key, kind in parameters.items()},
            "required": [*parameters],
        },
    }
    for name, parameters in PARAMETERS.items()
]
CITIES = [
    "Oslo",
    "Rome",
    "Lima",
    "Cairo",
    "Paris",
    "Tokyo",
    "Delhi",
    "Quito",
    "Berlin",
    "Madrid",
    "Dublin",
    "Athens",
]
ITEMS = [
    "tent",
    "lamp",
    "chair",
    "kettle",
    "bicycle",
    "ladder",
    "mirror",
    "pillow",
    "radio",
    "camera",
    "guitar",
    "blanket",
]
CURRENCIES = ["euros", "dollars", "pounds", "yen"]
UNITS = ["miles", "metres", "feet", "yards", "litres", "gallons"]


def question(kind, draw, half):
    """(what is asked, the call); `half` chooses cities and things that the other has not."""
    one = lambda words: draw.choice(words[half::2] if len(words) > 6 else words)  # noqa: E731
    if kind == "weather":
        values = {"city": one(CITIES), "days": draw.randint(2, 9)}
        asked = f"What will the weather in {values['city']} be for {values['days']} days?"
    elif kind == "price":
        values = {"item": one(ITEMS), "currency": draw.choice(CURRENCIES)}
        asked = f"How much is a {values['item']} in {values['currency']}?"
    else:
        unit, into = draw.sample(UNITS, 2)
        values = {"amount": draw.randint(2, 99) + 0.5 * half, "unit": unit, "into": into}
        asked = f"Convert {values['amount']} {unit} into {into}."
    return asked, {"name": kind, "arguments": values}


def rows(count, half):
    """Questions and calls, by turns in the form of OpenAI and in that of ShareGPT."""
    draw, made, seen = random.Random(half), [], set()
    while len(made) < count:
        asked, call = question([*PARAMETERS][len(made) % 3], draw, half)
        if asked in seen:
            continue
        seen.add(asked)
        if len(made) % 2:
            called = {**call, "arguments": json.dumps(call["arguments"])}
            calls = [{"id": f"call_{len(made)}", "type": "function", "function": called}]
            turns = [
                {"role": "user", "content": [{"type": "text", "text": asked}]},
                {"role": "assistant", "content": None, "tool_calls": calls},
            ]
            tools = [{"type": "function", "function": tool} for tool in TOOLS]
            made.append({"messages": turns, "tools": tools})
        else:
            turns = [
                {"from": "human", "value": asked},
                {"from": "function_call", "value": json.dumps(call)},
            ]
            made.append({"conversations": turns, "tools": json.dumps(TOOLS)})
    return made


def write(folder, *, steps, template=TEMPLATE):
    """An experiment on 40 rows with a suite of 15 questions that none of them asks."""
    for name, listed in {"calls": rows(40, 0), "asked": rows(15, 1)}.items():
        text = "".join(json.dumps(row) + "\n" for row in listed)
        (folder / f"{name}.jsonl").write_text(text)
    suite = {
        "name": "tools",
        "version": 1,
        "ask": "generate",
        "data": "asked.jsonl",
        "max_new_tokens": 40,
        "scorers": ["tool_call", "tool_call_partial"],
    }
    (folder / "tools.yaml").write_text(yaml.safe_dump(suite))
    experiment = {
        "name": "calls",
        "model": "smollm2-135m",
        "data": {"train": "calls.jsonl", "chat_template": template},
        "budget": {"steps": steps, "batch": 4, "max_length": 160, "precision": "float32"},
        "methods": ["base", {"name": "lora", "r": 16, "alpha": 32, "lr": 2.0e-3}],
        "seeds": [0],
        "suites": ["tools"],
    }
    if template is None:
        del experiment["data"]["chat_template"]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    return folder / "experiment.yaml"


def test_a_template_that_drops_calls_is_refused_before_anything_is_trained(harness, tmp_path):
    planned = harness("plan", write(tmp_path, steps=20, template=None))
    assert planned.code == 2
    (line,) = planned.stderr.splitlines()
    assert "calls.jsonl:1: the chat template leaves out the assistant's tool call" in line
    assert "set data.chat_template to a template that writes `tool_calls`" in line


def test_what_is_trained_on_is_shown(harness, tmp_path):
    planned = harness("plan", write(tmp_path, steps=20), "--show-tokens", "--rows", "1")
    assert planned.code == 0, planned.stderr
    asked, call = planned.stdout.split("<|im_start|>assistant\n")
    assert "weather(city, days) price(item, currency)" in asked
    assert call.strip().startswith('[[<tool_call>{"name": "weather", "arguments": {"city": ')
    assert call.strip().endswith("</tool_call><|im_end|>]]")


@pytest.mark.slow
@pytest.mark.long
def test_lora_learns_to_call_tools_and_the_base_does_not(harness, tmp_path):
    ran = harness("run", write(tmp_path, steps=20), "--out", tmp_path / "out")
    assert ran.code == 0, ran.stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "out/cells").glob("*.json")]
    found = {
        record["plan"]["method"]: record["evaluation"]["suites"]["tools"]["metrics"]
        for record in records
    }
    base, lora = found["base"], found["lora"]
    assert base["tool_call"]["value"] == 0
    assert lora["tool_call"]["value"] >= 0.3  # 0.6 where this was written
    assert lora["tool_call"]["delta_ci_low"] > 0
    assert lora["tool_call_partial"]["value"] >= lora["tool_call"]["value"]
    # against the references of other questions the same answers are worth nothing
    own, difference = (lora[f"tool_call{end}"]["value"] for end in ("", "_own_minus_other"))
    assert difference == pytest.approx(own, abs=0.05)
    (sampled,) = (tmp_path / "out/samples").glob("lora-*/tools.jsonl.gz")
    with gzip.open(sampled, "rt") as lines:
        first = json.loads(next(lines))
    assert [tool["function"]["name"] for tool in first["tools"]] == [*PARAMETERS]
    assert "<tool_call>" in first["output"]
    page = harness("report", tmp_path / "out", "-o", tmp_path / "report.html")
    assert page.code == 0, page.stderr
