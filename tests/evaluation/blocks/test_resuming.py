"""Finished blocks of answers are kept as they come, and are not computed again."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.api.model import Generation, LogLikelihood
from harness.evaluation.blocks import cutting, resuming
from harness.evaluation.blocks.kept_answers import Sharing
from harness.evaluation.blocks.resuming import Keeping, Resuming
from harness.results.artifact_hash import artifact_hash
from harness.system.workers import stopping
from harness.types import Artifact, ModelRef

CAP = 6
PAIRS = [
    ([*(random.Random(i // 3).randrange(500) for _ in range(30))], [i % 3 + 3, 9])
    for i in range(120)
]
PROMPTS = [[random.Random(i).randrange(500) for _ in range(5 + i % 9)] for i in range(45)]


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of some requests, all of them kept."""
    monkeypatch.setattr(cutting, "TOKENS", {"cpu": 300})
    monkeypatch.setattr(cutting, "PROMPTS", {"cpu": 10})
    monkeypatch.setattr(resuming, "WORTH_KEEPING", 0.0)


class Counting:
    """The model under test, and how many requests it computed; it may end the process' work."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.asked: list[int] = []
        self.calls_left = 10**6

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def generate(self, prompts: Any, **how: Any) -> list[Generation]:
        self._count(prompts)
        return list(self.model.generate(prompts, **how))

    def loglikelihood(self, requests: Any, progress: Any = None) -> list[LogLikelihood]:
        self._count(requests)
        return list(self.model.loglikelihood(requests, progress))

    def _count(self, requests: Any) -> None:
        if not self.calls_left:
            raise KeyboardInterrupt
        self.calls_left -= 1
        self.asked.append(len(requests))


@dataclasses.dataclass
class Bench:
    """A worker's view of a results folder, anew for each run."""

    out: Path
    model: Any
    artifact: Artifact
    warnings: list[str] = dataclasses.field(default_factory=list)

    def begin(self, calls: int = 10**6, artifact: Artifact | None = None) -> tuple[Resuming, Any]:
        counting = Counting(self.model)
        counting.calls_left = calls
        self.keeping = Keeping(self.out, self.warnings.append)
        wrapped = self.keeping.wrap(counting, artifact or self.artifact)
        assert isinstance(wrapped, Resuming)
        return wrapped, counting

    @property
    def files(self) -> list[Path]:
        return sorted(self.out.rglob("*.json"))


@pytest.fixture(scope="module")
def opened(tiny_model: Path) -> Any:
    from harness.models.language_model import open_artifact

    return open_artifact(Artifact("base", ModelRef("tiny", str(tiny_model))))


@pytest.fixture
def bench(tmp_path: Path, opened: Any, tiny_model: Path) -> Bench:
    ref = ModelRef("tiny", str(tiny_model), content_hash="c" * 64)
    return Bench(tmp_path / "out", opened, Artifact("base", ref))


def scores(model: Any) -> list[LogLikelihood]:
    return list(model.loglikelihood(PAIRS))


def answers(model: Any) -> list[Generation]:
    return list(model.generate(PROMPTS, max_new_tokens=CAP))


BOTH = pytest.mark.parametrize("ask", [scores, answers])


@BOTH
def test_what_was_cut_off_goes_on_to_the_same_bits(bench: Bench, ask: Callable[..., Any]) -> None:
    whole, all_asked = bench.begin()
    expected = ask(whole)
    assert len(all_asked.asked) > 3
    bench.keeping.clear(artifact_hash(bench.artifact))
    assert not bench.out.exists() or not list(bench.out.rglob("*"))

    cut, _ = bench.begin(calls=2)
    with pytest.raises(KeyboardInterrupt):
        ask(cut)
    again, rest = bench.begin()
    assert ask(again) == expected
    assert rest.asked == all_asked.asked[2:]
    resumed = bench.keeping.resumed()
    assert resumed is not None
    assert (resumed["blocks"], resumed["requests"]) == (2, sum(all_asked.asked[:2]))
    assert not bench.warnings


@BOTH
def test_answers_are_near_to_those_of_one_call(bench: Bench, ask: Callable[..., Any]) -> None:
    """Blocks change the rounding of passes and nothing else."""
    wrapped, _ = bench.begin()
    for own, plain in zip(ask(wrapped), ask(bench.model), strict=True):
        if isinstance(own, Generation):
            assert own == plain
        else:
            assert own.token_logprobs == pytest.approx(plain.token_logprobs, abs=1e-4)


def test_nothing_is_asked_twice_and_settings_count(bench: Bench) -> None:
    first, _ = bench.begin()
    answers(first)
    again, counting = bench.begin()
    answers(again)
    assert counting.asked == []
    again.generate(PROMPTS, max_new_tokens=CAP + 1)
    assert sum(counting.asked) == len(PROMPTS)
    again.generate(PROMPTS, max_new_tokens=CAP, stops=["x"])
    assert sum(counting.asked) == 2 * len(PROMPTS)
    scores(again)
    assert sum(counting.asked) == 2 * len(PROMPTS) + len(PAIRS)


def test_blocks_of_another_artifact_are_not_used(bench: Bench) -> None:
    """Found by its own hash, and not where somebody put the files in its place."""
    first, _ = bench.begin()
    scores(first)
    other = dataclasses.replace(bench.artifact, precision="bf16")
    changed, counting = bench.begin(artifact=other)
    scores(changed)
    assert sum(counting.asked) == len(PAIRS)
    bench.keeping.clear(artifact_hash(other))

    place = bench.keeping.kept[0].folder
    shutil.copytree(bench.files[0].parent, place)
    moved, counting = bench.begin(artifact=other)
    scores(moved)
    assert sum(counting.asked) == len(PAIRS)
    assert len(bench.warnings) == len(list(place.glob("*.json")))
    assert all("it is of another model or device" in line for line in bench.warnings)


def truncated(text: str) -> str:
    return text[: len(text) // 2]


def flipped(text: str) -> str:
    at = text.index('"answers"') + 20
    return text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :]


def emptied(text: str) -> str:
    return ""


def of_a_list(text: str) -> str:
    return "[1, 2]"


@pytest.mark.parametrize("damage", [truncated, flipped, emptied, of_a_list])
def test_a_damaged_block_is_computed_again(bench: Bench, damage: Callable[[str], str]) -> None:
    first, _ = bench.begin()
    expected = scores(first)
    file = bench.files[1]
    lost = len(json.loads(file.read_text())["keys"])
    file.write_text(damage(file.read_text()))
    again, counting = bench.begin()
    assert scores(again) == expected
    assert counting.asked == [lost]
    (line,) = bench.warnings
    assert file.name in line
    assert "asked again" in line
    bench.warnings.clear()
    healed, counting = bench.begin()
    assert scores(healed) == expected
    assert (counting.asked, bench.warnings) == ([], [])


def test_answers_that_are_missing_values_stay_so(bench: Bench) -> None:
    class Broken(Counting):
        def loglikelihood(self, requests: Any, progress: Any = None) -> list[LogLikelihood]:
            return [LogLikelihood(math.nan, False, (math.nan, -math.inf), True) for _ in requests]

    keeping = Keeping(bench.out, bench.warnings.append)
    scores(keeping.wrap(Broken(None), bench.artifact))
    again, counting = bench.begin()
    found = scores(again)
    assert counting.asked == []
    assert all(math.isnan(one.logprob) and one.cut for one in found)
    assert found[0].token_logprobs[1] == -math.inf


def test_a_folder_that_cannot_be_written_costs_no_answer(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / "blocks").write_text("a file in its place")
    wrapped, counting = bench.begin()
    assert len(scores(wrapped)) == len(PAIRS)
    assert sum(counting.asked) == len(PAIRS)
    assert "are not kept" in bench.warnings[0]


def test_a_worker_that_is_told_to_stop_ends_between_two_blocks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped, counting = bench.begin()
    count = iter([False, False, True])
    monkeypatch.setattr(stopping._requested, "is_set", lambda: next(count))
    with pytest.raises(stopping.Stopped):
        scores(wrapped)
    assert len(counting.asked) == len(bench.files) == 2


def test_progress_goes_on_from_what_is_kept(bench: Bench) -> None:
    cut, _ = bench.begin(calls=2)
    with pytest.raises(KeyboardInterrupt):
        answers(cut)
    again, _ = bench.begin()
    told: list[tuple[int, int]] = []
    again.generate(PROMPTS, max_new_tokens=CAP, progress=lambda *at: told.append(at))
    resumed = bench.keeping.resumed()
    assert resumed is not None
    assert told[0][0] > resumed["requests"]
    assert told == sorted(told)
    assert told[-1] == (len(PROMPTS), len(PROMPTS))


# ---- several workers ----------------------------------------------------------------------------


def shared(bench: Bench, *, helps: bool) -> tuple[Any, Counting, Keeping]:
    sharing = Sharing(bench.out, "token")
    if not helps:
        sharing.begin()
    counting = Counting(bench.model)
    keeping = Keeping(bench.out, bench.warnings.append, sharing, helps=helps)
    return keeping.wrap(counting, bench.artifact), counting, keeping


@BOTH
def test_a_worker_takes_what_others_kept_and_leaves_what_they_are_at(
    bench: Bench, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, all_asked = bench.begin()
    expected = ask(alone)
    shutil.rmtree(bench.out)

    own, first, keeping = shared(bench, helps=False)
    helper, second, _ = shared(bench, helps=True)
    first.calls_left = 2
    with pytest.raises(KeyboardInterrupt):  # it claims a third block and stands still
        ask(own)
    ask(helper)
    assert len(second.asked) == len(all_asked.asked) - 3

    # nobody finishes the claimed block: it is not waited for without end
    monkeypatch.setattr(resuming, "PATIENCE", 0.0)
    again, third, keeping = shared(bench, helps=False)
    assert ask(again) == expected
    assert len(third.asked) == 1
    assert sum(first.asked) + sum(second.asked) + sum(third.asked) == sum(all_asked.asked)
    resumed = keeping.resumed()
    assert resumed is not None
    assert resumed["blocks"] == len(all_asked.asked) - 1
    assert not bench.warnings


def test_a_helper_ends_once_it_is_not_needed(bench: Bench) -> None:
    helper, counting, _ = shared(bench, helps=True)
    with pytest.raises(stopping.Stopped):
        scores(helper)
    assert counting.asked == []


def test_claims_of_an_earlier_run_count_for_nothing(bench: Bench) -> None:
    own, counting, _ = shared(bench, helps=False)
    counting.calls_left = 0
    with pytest.raises(KeyboardInterrupt):
        scores(own)
    later = Keeping(bench.out, bench.warnings.append, Sharing(bench.out, "another"))
    counting = Counting(bench.model)
    scores(later.wrap(counting, bench.artifact))
    assert sum(counting.asked) == len(PAIRS)
