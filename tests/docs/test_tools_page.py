"""The rows and the template of the page on tool calls: they train on the calls that they show."""

import json
import re

import yaml

from harness import parse_tool_calls
from harness.data.rows import load_rows, load_samples
from harness.data.tokenization import IGNORED, encode_prompt, encode_row
from tests.conftest import ROOT

PAGE = (ROOT / "docs/how-to/tools.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_every_row_of_the_page_trains_on_its_call(tokenizer, tmp_path):
    template = yaml.safe_load(blocks("yaml")[0])["data"]["chat_template"]
    *trained, asked = blocks("json")
    for at, text in enumerate(trained):
        file = tmp_path / f"{at}.jsonl"
        file.write_text(text, "utf-8")
        columns = {"prompt": "query", "completion": "answers"} if "query" in text else None
        (row,) = load_rows(file, columns=columns)
        encoded = encode_row(tokenizer, row, chat_template=template)
        learnt = [label for label in encoded.labels if label != IGNORED]
        (call,) = parse_tool_calls(tokenizer.decode(learnt).split("<|im_end|>")[0])
        assert (call.name, call.arguments) == ("weather", {"city": "Oslo"})
        whole = tokenizer.decode(encoded.input_ids)
        assert whole.startswith('<|im_start|>system\nYou may call: {"name": "weather"')
    file = tmp_path / "asked.jsonl"
    file.write_text(asked, "utf-8")
    (sample,) = load_samples(file)
    assert json.loads(sample.reference)[0]["name"] == "weather"
    turn = {"role": "user", "content": sample.prompt}
    file.write_text(json.dumps({**json.loads(asked), "messages": [turn]}), "utf-8")
    (sample,) = load_samples(file)
    prompt = tokenizer.decode(encode_prompt(tokenizer, sample, template))
    assert prompt.endswith("<|im_start|>assistant\n")
