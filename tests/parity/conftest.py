"""Cells to hold shipped forms against, and the command in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness.cli.main import cli
from harness.parity import worker
from harness.system import child_process
from harness.system.endpoint import client
from tests.conftest import CHATML, COLOURS, THINGS, run_warm, write_experiment, write_jsonl

WITH_BOS = "{{ '<|endoftext|>' }}" + CHATML
"""The cell's template, whose prompts begin with BOS."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: Any, tiny_model: Any, warm: Any) -> Any:
    """A LoRA that learnt to answer as the shop does, and to come to an end, and its base."""
    folder = tmp_path_factory.mktemp("parity")
    small = write_experiment(
        folder,
        tiny_model,
        methods=["base", {"name": "lora", "r": 16, "alpha": 32, "lr": 0.02}],
        data={"train": "train.jsonl", "validation": 4, "chat_template": WITH_BOS},
        budget={"steps": 30, "batch": 8, "max_length": 96, "precision": "float32"},
    )
    asked = [
        {
            "id": thing,
            "messages": [
                {"role": "system", "content": "You answer for a small shop."},
                {"role": "user", "content": f"{begin}Do you sell a {colour} {thing}?"},
            ],
            "reference": f"Yes, the {colour} {thing} is here.",
        }
        for thing, colour, begin in zip(THINGS, COLOURS * 3, ["Hello! ", *[""] * 7], strict=False)
    ]
    write_jsonl(folder / "asked.jsonl", asked)
    suite = (folder / "answers.yaml").read_text().replace("max_new_tokens: 8", "max_new_tokens: 24")
    (folder / "answers.yaml").write_text(suite)
    small = small.write(suites=["answers", "picks"])
    outcome = run_warm(small, warm)
    logs = [(small.out / "logs" / f"{cell}.log").read_text() for cell in outcome.failed]
    assert not logs, logs
    return small


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's work in this process: it saves the seconds of importing torch."""
    from pydantic import TypeAdapter

    from harness.errors import HarnessError

    def events(module: str, told: bytes) -> Iterator[dict[str, Any]]:
        assert module == "harness.parity.worker"
        said: list[dict[str, Any]] = []
        task = TypeAdapter(worker.Task).validate_json(told)
        try:
            result = worker.carry_out(task, lambda **event: said.append(event))
        except HarnessError as error:
            yield {"error": str(error), "exit_code": error.exit_code}
            return
        yield from [*said, {"result": json.loads(json.dumps(worker.as_json(result)))}]

    monkeypatch.setattr(child_process, "events", events)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(client, "RETRIES", 1)


@pytest.fixture
def parity(here: None, trained: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """`parity("--served", URL ...)` of the LoRA: (exit code, the report)."""

    def run(*arguments: object, cell: str = "lora") -> tuple[int, Any]:
        where = ["--results", str(trained.out), "--suites", str(trained.folder), "--json"]
        with pytest.raises(SystemExit) as ended:
            cli.main(["parity", cell, *map(str, arguments), *where], standalone_mode=False)
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out)

    return run
