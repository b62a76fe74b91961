from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from harness.data.overlap import closest, overlaps
from harness.types import Row, Sample

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
SYSTEM = {"role": "system", "content": f"You are kind. {LONG}"}


def talk(user: str, answer: str = "Fine.") -> tuple[dict[str, str], ...]:
    return (
        SYSTEM,
        {"role": "user", "content": user},
        {"role": "assistant", "content": answer},
    )


def row(i: int, user: str, answer: str = "Fine.") -> Row:
    return Row(f"r{i}", messages=talk(user, answer), line=i)


def sample(user: str, reference: str = "Good.") -> Sample:
    return Sample("s1", messages=talk(user)[:2], reference=reference)


def test_the_same_prompt_is_found_whatever_its_dress() -> None:
    train = [row(1, "Where is my parcel?"), Row("r2", prompt="where is MY parcel", completion="x")]
    found = overlaps(train, [sample("Where is my  parcel")])
    assert [(o.sample_id, o.row_id, o.row_line, o.kind) for o in found] == [
        ("s1", "r1", 1, "same prompt"),
        ("s1", "r2", None, "same prompt"),
    ]
    assert found[0].text == "where is my parcel"


def test_a_long_run_of_shared_words_is_found_in_question_and_answer() -> None:
    words = [f"w{i}" for i in range(14)]
    train = [row(1, "So: " + " ".join(words)), row(2, "Other", "Well, " + " ".join(words[:13]))]
    found = overlaps(train, [sample("Hm", " ".join(words).upper())])
    assert [(o.row_id, o.kind, o.text) for o in found] == [
        ("r1", "13-gram", " ".join(words[:13])),
        ("r2", "13-gram", " ".join(words[:13])),
    ]
    assert overlaps([row(1, " ".join(words[:12]))], [sample("Hm", " ".join(words))]) == []
    assert len(overlaps([row(1, " ".join(words[:12]))], [sample("Hm", " ".join(words))], n=12)) == 1


def test_runs_do_not_reach_over_messages() -> None:
    words = LONG.split()
    train = [Row("r1", prompt=" ".join(words[:7]), completion=" ".join(words[7:]))]
    assert overlaps(train, [Sample("s1", prompt="q", reference=LONG)]) == []


def test_boilerplate_is_no_leak() -> None:
    closing = "a closing that each answer of this shop has at its end every time"
    train = [row(i, f"Question number {i}", f"Answer {i}. {closing}") for i in range(40)]
    assert overlaps(train, [sample("Something else", closing)]) == []
    rare = [row(i, f"Q {i}", f"A {i}. {closing if i < 4 else ''}") for i in range(40)]
    assert len(overlaps(rare, [sample("Something else", closing)])) == 4


def test_the_system_prompt_is_no_leak_even_where_a_user_quotes_it() -> None:
    train = [row(1, f"You said: {LONG}"), row(2, "Hello")]
    assert overlaps(train, [sample("Bye", LONG)]) == []


def test_texts_are_compared_too() -> None:
    found = overlaps([Row("r1", text=f"Once {LONG}")], [Sample("s1", reference=f"{LONG} end")])
    assert [o.kind for o in found] == ["13-gram"]


def plain_similarity(a: str, b: str) -> float:
    def jaccard(x: set[object], y: set[object]) -> float:
        return len(x & y) / len(x | y)

    def grams(words: list[str]) -> set[object]:
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    one, two = a.split(), b.split()
    return max(jaccard(set(one), set(two)), jaccard(grams(one), grams(two)))


def test_closest_is_what_comparing_every_pair_gives() -> None:
    draw = random.Random(5)
    vocabulary = [f"w{i}" for i in range(30)]

    def text() -> str:
        return " ".join(draw.choices(vocabulary, k=draw.randint(1, 12)))

    train = [row(i, text()) for i in range(60)]
    tests = [Sample(f"s{i}", prompt=text()) for i in range(20)]
    expected = sorted(
        (
            plain_similarity(s.question, r.messages[1]["content"])
            for s in tests
            for r in train
            if r.messages
        ),
        reverse=True,
    )[:15]
    pairs = closest(train, tests, top=15)
    assert [similarity for similarity, _, _ in pairs] == pytest.approx(expected)
    by_id = {s.id: s.question for s in tests}
    rows = {r.id: r.messages[1]["content"] for r in train if r.messages}
    for similarity, sample_id, row_id in pairs:
        assert similarity == pytest.approx(plain_similarity(by_id[sample_id], rows[row_id]))


def test_closest_takes_the_most_alike_turns_and_not_the_system_prompt() -> None:
    two_turns = (*talk("First thing"), {"role": "user", "content": "And on Sunday?"}, talk("")[2])
    train = [Row("r1", messages=two_turns), row(2, "Nothing alike")]
    assert closest(train, [sample("and on sunday")]) == [(1.0, "s1", "r1")]
    assert closest([], [sample("x")]) == []
    assert closest(train, []) == []


def script(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name, user in (("train", "Where is my blue parcel?"), ("test", "Where is my red parcel?")):
        line = json.dumps({"id": name, "messages": talk(user)})
        (tmp_path / f"{name}.jsonl").write_text(line)
    files = [str(tmp_path / "train.jsonl"), str(tmp_path / "test.jsonl")]
    command = [sys.executable, "-m", "harness.data.overlap", *files, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_script_prints_the_pairs_and_judges(tmp_path: Path) -> None:
    done = script(tmp_path)
    assert done.returncode == 1
    assert "0.67  test: Where is my red parcel?" in done.stdout
    assert "train: Where is my blue parcel?" in done.stdout
    assert script(tmp_path, "--max", "0.7").returncode == 0


def test_the_script_names_a_wrong_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.data.overlap", str(tmp_path / "a.jsonl"), "b.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_reading_data_imports_nothing_heavy() -> None:
    modules = "harness.data.rows, harness.data.overlap, harness.config.experiment"
    code = f"import {modules}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "datasets", "transformers", "numpy", "pyarrow"}
    assert heavy.isdisjoint(done.stdout.split())
