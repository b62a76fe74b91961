"""Wrong files and wrong options in great number: nothing ends in a traceback or without an end.

`python tests/fuzz.py --files 5000 --model FOLDER` mutates an experiment, a suite, a policy and
files of data, seeded, and runs the command on each in this process, under a limit of time;
`--inputs` tries bad inputs of known classes, that must be refused by one line. It prints a table
and exits 1 where a traceback (exit 70), a hang or anything else unexpected was found.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
SECONDS = 30
"""A command's limit; one on the tiny experiment takes some hundredths of a second."""

NASTY: tuple[Any, ...] = (
    *(None, True, False, "", " ", "\n", "nan", float("nan"), float("inf"), -float("inf")),
    *(0, -1, 1, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400, -(10**30), 0.5, 1e308, 5e-324),
    *([], {}, [[]], [{}], {"": ""}, {"a": {"b": {}}}, [None], [1, "a", None], [[[[[[]]]]]]),
    *("~nosuchuser/x", "/", ".", "..", "../../x", "x" * 300, "a/" * 3000, "/dev/null", "/dev/zero"),
    *("\x00", "\x1b[2J", "\u202e", "[/red]", "%s", "{}", "{{", "{% for %}", "é", "日本", "\ufeff"),
    *("1e-4", "yes", "0x10", "007", "2020-01-01", "5%", "=1+1", "!function x.y", "*", "a.b", "("),
)
"""Values that programs trip over."""
_BYTES = (b"\x00", b"\xff", b"\xed\xa0\x80", b"\x1b", b"\r", b"\xef\xbb\xbf", b"\x85", b"\t")
_TEXTS = (
    "&a ",
    "*a",
    "<<: *a\n",
    "!!python/object:x ",
    "? ",
    "---\n",
    "|\n",
    "#",
    "'",
    '"',
    "{",
    "]",
)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    hang: bool = False

    @property
    def kind(self) -> str:
        """refused, accepted, verdict, traceback, hang or unclear."""
        if self.hang:
            return "hang"
        if self.code == 70 or "Traceback" in self.stderr:
            return "traceback"
        if self.code == 2:
            lines = [line for line in self.stderr.splitlines() if line.startswith("Error: ")]
            return "refused" if len(lines) == 1 else "unclear"
        return "accepted" if self.code == 0 else "verdict"


class _Hang(BaseException):
    """A command ran into its limit."""


def harness(arguments: Sequence[str], folder: Path) -> Outcome:
    """Run a command in this process, in `folder`."""
    from harness.cli import main

    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
    before = (sys.stdout, sys.stderr, sys.argv, Path.cwd())
    sys.stdout, sys.stderr, sys.argv = *streams, ["harness", *arguments]
    os.chdir(folder)
    code, hang = 0, False
    try:
        with _limited():
            main.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except _Hang:
        hang = True
    finally:
        sys.stdout, sys.stderr, sys.argv = before[:3]
        os.chdir(before[3])
    out, err = (_text(stream) for stream in streams)
    return Outcome(code, out, err, hang)


def _text(stream: io.TextIOWrapper) -> str:
    with contextlib.suppress(ValueError, OSError):
        stream.flush()
    return stream.buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise _Hang after SECONDS; the timer of the code under test replaces this one for a while."""

    def stop(*_: object) -> None:
        raise _Hang

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


# ---- the folder that is spoilt


def write_folder(folder: Path, model: Path) -> None:
    """An experiment with a suite of each kind, its data, a policy, and records to gate."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Is {i} even?"},
                {"role": "assistant", "content": "Yes." if i % 2 == 0 else "No."},
            ]
        }
        for i in range(24)
    ]
    asked = [{"id": f"s{i}", "prompt": f"Is {i} odd?", "reference": "No."} for i in range(6)]
    picks = [
        {"question": f"Which is {i}?", "choices": ["a", "b"], "answer": i % 2} for i in range(6)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rows.csv").write_text(
        "prompt,completion\n" + "".join(f'"a {i}","b {i}"\n' for i in range(24))
    )
    (folder / "rows.json").write_text(
        json.dumps([{"prompt": f"a {i}", "completion": f"b {i}"} for i in range(24)])
    )
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (folder / "picks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in picks))
    files = {
        "answers.yaml": {
            "name": "answers",
            "version": 1,
            "ask": "generate",
            "data": "asked.jsonl",
            "max_new_tokens": 8,
            "scorers": ["exact_match", {"name": "regex", "label": "no", "pattern": "No"}],
        },
        "choices.yaml": {"name": "choices", "version": 1, "ask": "choice", "data": "picks.jsonl"},
        "texts.yaml": {"name": "texts", "version": 1, "ask": "perplexity", "data": "train.jsonl"},
        "experiment.yaml": {
            "name": "spoilt",
            "model": str(model),
            "data": {"train": "train.jsonl", "validation": 4},
            "budget": {"steps": 2, "batch": 2, "max_length": 96, "precision": "float32"},
            "methods": ["base", {"name": "lora", "label": "small", "r": 4, "lr": 0.001}],
            "seeds": [0, 1],
            "suites": ["answers", {"name": "choices", "limit": 3}, "texts"],
        },
        "policy.yaml": {
            "confidence": 0.95,
            "correction": "holm",
            "inconclusive": "block",
            "rules": [
                {"metric": "similarity.cosine", "max_drop": 0.02},
                {"metric": "perplexity.*", "max_increase": "5%"},
                {"metric": "cost.peak_memory_bytes", "max_increase": "10%"},
            ],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))


PLAN = ["plan", "experiment.yaml", "--json", "--out", "out"]


def targets(records: Path | None) -> dict[str, list[tuple[str, list[str]]]]:
    """Kind -> its files and the command that reads each."""
    gate = ["gate", "lora", "--baseline", "base", "--policy", "policy.yaml", "--results"]
    named = {"rows.csv": "data.train=rows.csv", "rows.json": "data.train=rows.json"}
    return {
        "experiment": [("experiment.yaml", PLAN)],
        "suite": [(name, PLAN) for name in ("answers.yaml", "choices.yaml", "texts.yaml")],
        "policy": [("policy.yaml", [*gate, str(records)])] if records else [],
        "data": [
            *((name, PLAN) for name in ("train.jsonl", "asked.jsonl", "picks.jsonl")),
            *((name, [*PLAN, "--set", value]) for name, value in named.items()),
        ],
    }


# ---- mutations


def mutate(content: bytes, name: str, chance: random.Random) -> bytes:
    """Content with one to three things wrong: in its structure where it has one, or its bytes."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        structure = chance.random() < 0.6 and not name.endswith(".csv")
        changed = _structure(content, name, chance) if structure else None
        content = _raw(content, chance) if changed is None else changed
    return content


def _structure(content: bytes, name: str, chance: random.Random) -> bytes | None:
    lines: list[bytes] = []
    at = 0
    try:
        if name.endswith(".jsonl"):
            lines = content.splitlines(keepends=True)
            at = chance.randrange(len(lines))
            value = json.loads(lines[at])
        else:
            value = json.loads(content) if name.endswith(".json") else yaml.safe_load(content)
        _spoil(value, chance)
        if name.endswith(".yaml"):
            return str(yaml.safe_dump(value, sort_keys=False)).encode()
        told = json.dumps(value).encode()
        return told if not lines else b"".join([*lines[:at], told + b"\n", *lines[at + 1 :]])
    except (ValueError, yaml.YAMLError, IndexError, RecursionError, TypeError):
        return None


def _spoil(value: Any, chance: random.Random) -> None:
    """Change one place of a structure, in place: another value, a key gone, doubled or renamed."""
    places = [
        (holder, key)
        for holder in _holders(value)
        for key in (list(holder) if isinstance(holder, dict) else range(len(holder)))
    ]
    holder, key = chance.choice(places)
    what = chance.randrange(6)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif what == 2 and isinstance(holder, list):
        holder.append(holder[key])
    elif what == 3:
        other, there = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[there]))
    else:
        holder[key] = chance.choice(NASTY)


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _holders(part)


def _raw(content: bytes, chance: random.Random) -> bytes:
    at, to = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    what = chance.randrange(7)
    if what == 0:
        return content[:at] + content[min(to, at + 20) :]
    if what == 1:
        return content[:at]
    if what == 2:
        return content[:at] + chance.choice(_BYTES) + content[at:]
    if what == 3:
        return content[:at] + chance.choice(_TEXTS).encode() + content[at:]
    if what == 4:
        return content[:at] + content[at:to] * 2 + content[to:]
    if what == 5:
        return content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]
    return content[:at] + str(chance.choice(NASTY)).encode("utf-8", "replace") + content[at:]


Found = tuple[str, Outcome]


def fuzz(
    count: int, model: Path, records: Path | None, seed: int = 0, say: Callable[[str], None] = print
) -> tuple[Counter[tuple[str, str]], list[Found]]:
    """(kind of file, how it ended) -> how often; and every traceback, hang or unclear end."""
    chance, ends, bad = random.Random(seed), Counter[tuple[str, str]](), list[Found]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_folder(folder, model)
        every = {kind: files for kind, files in targets(records).items() if files}
        for number in range(count):
            kind = list(every)[number % len(every)]
            name, command = chance.choice(every[kind])
            good = (folder / name).read_bytes()
            spoilt = mutate(good, name, chance)
            (folder / name).write_bytes(spoilt)
            outcome = harness(command, folder)
            (folder / name).write_bytes(good)
            ends[kind, outcome.kind] += 1
            if outcome.kind in ("traceback", "hang", "unclear"):
                bad.append((f"{number} {name}: {spoilt[:3000]!r}", outcome))
                say(f"{number} {name} {outcome.kind}: {outcome.stderr.strip()[-300:]}")
    return ends, bad


# ---- bad inputs by class


Case = tuple[str, list[str], Mapping[str, Any]]
"""Class, arguments, and files to write first."""
_WRONG_NUMBERS = ("nan", "inf", "-1", "1e999", "x", "", " ", "0x10", "9" * 5000, "--", "1,5")


def inputs() -> list[Case]:
    """Some 500 wrong inputs; every one must be refused by one line and exit 2."""
    return [
        *_options(),
        *_keys("experiment", "experiment.yaml", _EXPERIMENT),
        *_keys("suite", "answers.yaml", _SUITE),
        *_rows(),
        *_encodings(),
        *_paths(),
    ]


def _options() -> Iterator[Case]:
    for value in _WRONG_NUMBERS:
        for option in ("--limit", "--rows", "--price-per-hour", "--memory"):
            yield "option", ["plan", "experiment.yaml", option, value], {}
        for option in ("--confidence", "--samples"):
            yield "option", ["compare", "a", "b", option, value], {}
        for option in ("--max-difference", "--max-changed", "--limit"):
            yield "option", ["export", "a", "--to", "b", "--merge", option, value], {}
        yield "option", ["run", "experiment.yaml", "--batch", value], {}
        yield "option", ["run", "experiment.yaml", "--executor", value], {}
        yield "option", ["run", "experiment.yaml", "--tracker", value], {}
    for value in (
        "",
        "=",
        "a",
        "a.b",
        ".=1",
        "a..b=1",
        "methods.9=1",
        "budget.steps=[",
        "name.x=1",
        "budget.steps=" + "9" * 5000,
        "name=\x1b",
        "name=\ud800",
    ):
        yield "option", ["plan", "experiment.yaml", "--set", value], {}
    for command in (
        "plan",
        "run",
        "eval",
        "leaderboard",
        "report",
        "compare",
        "gate",
        "export",
        "suites check",
        "suites new",
        "models pull",
        "schema",
    ):
        for value in ("nope", "", "~nosuchuser/x", "x" * 300, "/dev/null", "a/" * 3000):
            rest = {"gate": ["--baseline", "base"], "export": ["--to", "b"]}.get(command, [])
            if (command, value) not in {("suites new", "nope")}:
                yield "argument", [*command.split(), value, *rest], {}


_EXPERIMENT: dict[str, Sequence[Any]] = {
    "name": (None, 1, "", "a/b", "..", "-a", ["a"], {}, "\x00", "a b", "x" * 300),
    "model": (None, 1, "", [], {}, "nope", "~nosuchuser/x", "x" * 300, "\x00", "./nope"),
    "seeds": (1, [], [-1], [2**32], [0.5], ["a"], [0, 0], [None], {}, [10**30]),
    "methods": ([], "lora", [1], [{}], ["nope"], [{"name": 1}], ["lora", "lora"], [None], {}, [[]]),
    "suites": ("answers", [1], [{}], ["nope"], ["answers", "answers"], [None], {}, [[]], ["../x"]),
    "budget": ([], 1, "x", {}, {"steps": 1}, {"steps": 0, "batch": 1}),
    "budget.steps": (0, -1, 0.5, "a", [], 10**30, float("nan"), float("inf"), True, 10**9),
    "budget.batch": (0, -1, 0.5, "a", [], 10**30, True, {}),
    "budget.micro_batch": (0, -1, 3, "all", [], 10**30, 0.5),
    "budget.max_length": (0, 7, -1, "a", [], 10**30, 0.5),
    "budget.precision": (1, "fp8", [], "", None),
    "budget.on_oom": (1, "never", [], ""),
    "budget.checkpoint_minutes": (0, -1, "often", [], {}, True, float("inf"), float("nan"), 1e12),
    "data": ([], 1, "x", {}, {"train": None}),
    "data.train": (1, "", [], "nope.jsonl", "nope", "~nosuchuser/x", "x" * 300, "/dev/null"),
    "data.validation": (0, -1, 1.5, "", [], True, 1000, 10**30, "nope.jsonl", float("nan")),
    "data.loss": (1, "none", [], ""),
    "data.columns": (1, "a", [], {"a": "b"}, {"prompt": 1}, {"prompt": "nope"}),
    "data.sample": (0, -1, "a", 0.5, []),
    "data.mix": (
        1,
        "a",
        [],
        {},
        {"source": "nope", "share": 0.1},
        {"source": "train.jsonl", "share": 2},
    ),
    "data.chat_template": (1, [], "{% for %}", "{{ x", "constant", "/dev/null"),
    "price_per_hour": (-1, "a", [], float("nan"), float("inf")),
    "rank_by": (1, [], "nope", "answers.nope", "."),
    "track": ("a", [1], ["nope"], {}),
    "tune": (1, [], {}, {"trials": 0}, {"trials": "a"}, {"trials": 10**30}),
    "mirror": (1, [], "nope", "\x00"),
    "trust_remote_code": ("yes", 1, []),
    "methods.1.r": (0, -1, "a", 0.5, [], 10**30, None),
    "methods.1.alpha": (0, -1, "a", 0.5, [], 10**30, 10**400),
    "methods.1.lr": (-1, "fast", [], float("nan"), float("inf"), None),
    "methods.1.target_modules": ([], ["nope"], 1, [1], {}),
    "methods.1.label": ("", " a", "a,b", 1, [], "base", "a\x07"),
    "nope": (1, None, []),
}
_SUITE: dict[str, Sequence[Any]] = {
    "name": (None, 1, "", "other", [], {}),
    "version": (None, 0, -1, "a", 0.5, []),
    "ask": (None, 1, "nope", [], ""),
    "data": (None, 1, "", [], {}, "nope.jsonl", "~nosuchuser/x", "x" * 300, "\x00"),
    "max_new_tokens": (0, -1, "a", 0.5, [], 10**30),
    "limit": (0, -1, "a", 0.5, []),
    "scorers": (
        [],
        "exact_match",
        [1],
        [{}],
        ["nope"],
        [None],
        ["exact_match"] * 2,
        {},
        [["regex"]],
    ),
    "scorers.1": (
        {"name": "regex"},
        {"name": "regex", "pattern": 1},
        {"name": "regex", "pattern": "("},
        {"name": "regex", "pattern": ""},
        {"name": "regex", "pattern": "a{" + "9" * 30 + "}"},
        {"name": "regex", "pattern": "a", "nope": 1},
        {"name": "exact_match", "label": "a b"},
    ),
    "nope": (1, None, []),
}


def _keys(kind: str, file: str, wrong: Mapping[str, Sequence[Any]]) -> Iterator[Case]:
    for key, values in wrong.items():
        for value in values:
            yield kind, PLAN, {file: (key, value)}


def _rows() -> Iterator[Case]:
    for line in (
        "",
        "1",
        "[]",
        "null",
        '"a"',
        "{}",
        '{"a": 1}',
        '{"prompt": 1, "completion": "a"}',
        '{"prompt": "", "completion": "a"}',
        '{"messages": []}',
        '{"messages": 1}',
        '{"messages": [1]}',
        '{"messages": [{}]}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "x", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": 1}]}',
        '{"messages": [{"role": "user", "content": ""}]}',
        '{"messages": [{"role": ["a"], "content": "b"}]}',
        "{",
        "[" * 100000,
        '{"a": ' * 100000,
        '{"text": ' + "9" * 5000 + "}",
        "NaN",
        "\x00",
        "\ufffe",
        '{"prompt": "a"}',
        '{"instruction": "a"}',
        '{"text": null}',
        '{"text": {}}',
    ):
        yield "row", PLAN, {"train.jsonl": f"{line}\n".encode("utf-8", "replace")}
    for line in (
        "",
        "1",
        "[]",
        "{}",
        '{"prompt": 1}',
        '{"prompt": ""}',
        '{"prompt": "a"}',
        '{"id": "a", "prompt": "x", "reference": "y"}\n' * 2,
        '{"id": [], "prompt": "x", "reference": "y"}',
        '{"prompt": "x", "reference": 1}',
        '{"prompt": "x", "reference": null}',
        "[" * 100000,
    ):
        yield "row", PLAN, {"asked.jsonl": f"{line}\n".encode()}
    for text in (
        "",
        "a",
        "a,b",
        "prompt,completion",
        "prompt,completion\n1",
        'prompt,completion\n"a',
        "prompt,prompt\na,b",
        "prompt,completion\na,b,c",
        "prompt,completion\n,",
        "\x00",
    ):
        yield "row", [*PLAN, "--set", "data.train=rows.csv"], {"rows.csv": text.encode()}
    for text in (
        "",
        "1",
        "{}",
        "[]",
        "[1]",
        '{"data": 1}',
        '{"data": []}',
        "[" * 100000,
        "nope",
        "[{}]",
    ):
        yield "row", [*PLAN, "--set", "data.train=rows.json"], {"rows.json": text.encode()}


def _encodings() -> Iterator[Case]:
    for file in ("experiment.yaml", "answers.yaml", "train.jsonl", "asked.jsonl"):
        for content in (
            b"",
            b"\xff\xfe",
            b"\x00" * 10,
            b"\xed\xa0\x80",
            "é: 1".encode("latin-1"),
            "name: x".encode("utf-16"),
            b"\x80\x81",
            b"\x1b[2J",
            bytes(range(256)),
        ):
            yield "encoding", PLAN, {file: content}


def _paths() -> Iterator[Case]:
    for option in ("--suites", "--mirror"):
        for value in (
            "nope",
            "experiment.yaml",
            "~nosuchuser/x",
            "x" * 300,
            "/dev/null",
            "a/" * 3000,
        ):
            yield "path", ["plan", "experiment.yaml", option, value], {}
            yield "path", ["eval", "nope", option, value], {}
    for value in ("nope", "experiment.yaml", "~nosuchuser/x", "x" * 300, "/dev/null", "a/" * 3000):
        yield "path", ["suites", "--suites", value], {}
        yield "path", ["leaderboard", value], {}
        yield "path", ["report", value], {}
        yield "path", ["compare", "a", "b", "--results", value], {}
        yield "path", ["gate", "a", "--baseline", "b", "--policy", value], {}
    for value in ("experiment.yaml", "x" * 300, "/dev/null/x", "/proc/nope/x"):
        yield "path", ["run", "experiment.yaml", "--out", value], {}


def _written(folder: Path, files: Mapping[str, Any]) -> dict[str, bytes]:
    """Spoil files; what stood there before."""
    before = {name: (folder / name).read_bytes() for name in files}
    for name, change in files.items():
        if isinstance(change, bytes):
            (folder / name).write_bytes(change)
            continue
        path, value = change
        content = yaml.safe_load(before[name])
        *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        holder = content
        for part in parts:
            holder = holder[part]
        holder[last] = value
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    return before


def try_inputs(
    cases: Sequence[Case], model: Path, say: Callable[[str], None] = print
) -> tuple[Counter[tuple[str, str]], list[Found]]:
    """(class, how it ended) -> how often; and everything that was not refused by one line."""
    ends, bad = Counter[tuple[str, str]](), list[Found]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_folder(folder, model)
        for kind, arguments, files in cases:
            before = _written(folder, files)
            outcome = harness(arguments, folder)
            for name, content in before.items():
                (folder / name).write_bytes(content)
            ends[kind, outcome.kind] += 1
            if outcome.kind != "refused":
                shown = " ".join(one[:40] for one in arguments)
                told = f"{shown} {str(files)[:200]}"
                bad.append((told, outcome))
                say(f"{outcome.kind} {told}: {outcome.stderr.strip()[-300:]!r}")
    return ends, bad


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=0, help="files to mutate")
    parser.add_argument("--inputs", action="store_true", help="bad inputs by class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=Path, help="a results folder that policies gate")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        from harness.models.tiny import write_tiny_model

        write_tiny_model(Path(place))
        ends, bad = Counter[tuple[str, str]](), list[Found]()
        if given.files:
            records = given.records.resolve() if given.records else None
            ends, bad = fuzz(given.files, Path(place), records, given.seed)
        if given.inputs:
            more, wrong = try_inputs(inputs(), Path(place))
            ends, bad = ends + more, bad + wrong
    for (kind, end), number in sorted(ends.items()):
        print(f"{kind:12} {end:10} {number}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
