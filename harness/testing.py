"""Conformance tests of training methods: what every method owes to a fair comparison.

    import pytest
    from harness.testing import CHECKS, Trial

    @pytest.fixture(scope="module")
    def trial(tmp_path_factory):
        return Trial(MyMethod(), tmp_path_factory.mktemp("trial"), {"r": 4})

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_method(trial, check):
        check(trial)

Each check takes a Trial and raises AssertionError with one line that says what is wrong. The
model is tiny, random and made here; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.api.method import Method
from harness.types import Artifact, Budget, Job, ModelRef, Row

__all__ = [
    "BUDGET",
    "CHECKS",
    "Trained",
    "Trial",
    "check_answers_when_reopened",
    "check_budget",
    "check_loss_falls",
    "check_safetensors_only",
    "check_seed",
    "check_trains",
]

BUDGET = Budget(steps=4, batch=4, max_length=96, precision="float32", micro_batch=2)
"""What each training of a Trial gets: two passes a step, so that accumulation is seen too."""
CLOSE = 1e-4
"""Nats a token by which a reopened artifact may differ from the model that was trained."""
_MADE_OF = {".safetensors", ".json", ".jinja", ".md", ".txt", ".model"}


@dataclass
class Trained:
    """One training, and what was seen of it."""

    artifact: Artifact
    job: Job
    difference: float
    """Largest difference of a log-probability, in nats a token: in memory against reopened; NaN
    where the method never showed its model with `job.trained`."""
    tokens: list[int] = field(default_factory=list)
    """Token ids that went into the model while it trained, without padding, in their order."""
    at_steps: list[int] = field(default_factory=list)
    """How many of them had gone in at each optimizer step."""


class Trial:
    """A method with its options (those of an experiment file) on a tiny model.

    Nothing is trained before a check asks for it, and nothing twice.
    """

    def __init__(
        self,
        method: Method,
        folder: Path,
        options: Mapping[str, Any] | None = None,
        *,
        budget: Budget = BUDGET,
    ) -> None:
        if not method.trains:
            raise ValueError(f"{method.name} trains nothing: it has nothing to conform to")
        from harness.config.strict_yaml import validate_options

        self.method, self.folder, self.budget = method, folder, budget
        self.options = validate_options(method.Options, options or {}, what=method.name)
        self.options.check(budget.precision)

    @cached_property
    def model(self) -> ModelRef:
        """The untouched tiny model."""
        from harness.models.tiny import NAME, write_tiny_model

        path = self.folder / "model"
        if not path.exists():
            write_tiny_model(path)
        found = ModelRef(NAME, str(path))
        self.options.fits(found)
        return found

    @cached_property
    def trained(self) -> Trained:
        """Trained with seed 0."""
        return self._train("first", 0)

    @cached_property
    def again(self) -> Trained:
        """Trained with seed 0 once more."""
        return self._train("again", 0)

    @cached_property
    def other(self) -> Trained:
        """Trained with seed 1."""
        return self._train("other", 1)

    def job(self, folder: Path, seed: int, **changes: Any) -> Job:
        """What a worker would give to the method."""
        from harness.data.rows import training_order

        budget = self.budget
        order = training_order(len(_ROWS), budget.steps * budget.batch, seed)
        told = {
            "model": self.model,
            "options": self.method.Options.model_validate(self.options.model_dump(mode="json")),
            "budget": budget,
            "seed": seed,
            "train": [_ROWS[i] for i in order],
            "validation": [],
            "folder": folder,
            "chat_template": None,
            "loss": "assistant",
            "phase": lambda name: ExitStack(),
            "report": lambda **event: None,
        }
        return Job(**{**told, **changes})

    def _train(self, name: str, seed: int) -> Trained:
        from harness.training.reload_check import Remembered

        folder = self.folder / name
        folder.mkdir(parents=True)
        watched = _Watched(_vocabulary(Path(self.model.path)))
        remembered = Remembered(self.job(folder, seed))
        job = self.job(folder, seed, trained=remembered.see, phase=watched.phase)
        with watched.hooks():
            artifact = self.method.train(job)
        shown = remembered.scores is not None
        difference = remembered.difference(artifact) if shown else math.nan
        return Trained(artifact, job, difference, watched.tokens, watched.at_steps)

    def score(self, artifact: Artifact) -> float:
        """Mean log-probability a token of the first rows of training, in nats."""
        from harness.models.language_model import open_artifact
        from harness.training.reload_check import scores

        opened = open_artifact(artifact)
        found = scores(self.trained.job, opened.model, opened.tokenizer, artifact)
        return sum(found) / len(found)


# ---- the checks ----------------------------------------------------------------------------------


def check_trains(trial: Trial) -> None:
    """`train` returns an artifact of the job's model, in the job's folder."""
    found, name = trial.trained, trial.method.name
    artifact = found.artifact
    _hold(isinstance(artifact, Artifact), f"{name}: train returned {type(artifact).__name__}")
    _hold(artifact.kind != "base", f"{name}: the artifact is the untouched base")
    _hold(artifact.base == found.job.model, f"{name}: the artifact is of another model")
    _hold(
        artifact.path is not None and Path(artifact.path) == found.job.folder,
        f"{name}: the artifact lies in {artifact.path}, not in job.folder",
    )


def check_loss_falls(trial: Trial) -> None:
    """The rows of training are likelier under the trained model than before the training.

    Before is the base as the artifact opens it: quantised where that is.
    """
    artifact = trial.trained.artifact
    base = Artifact("base", artifact.base, quantization=artifact.quantization)
    before, after = trial.score(base), trial.score(artifact)
    _hold(
        after > before,
        f"{trial.method.name}: log-probability went from {before:.6f} to {after:.6f} nats a token",
    )


def check_answers_when_reopened(trial: Trial) -> None:
    """The artifact, reopened, gives the log-probabilities of the model that was trained."""
    found, name = trial.trained, trial.method.name
    _hold(
        not math.isnan(found.difference),
        f"{name}: call job.trained(model, tokenizer) before saving, or train with train_sft",
    )
    _hold(
        found.difference <= CLOSE,
        f"{name}: reopened, log-probabilities differ by {found.difference:.3g} nats a token",
    )


def check_seed(trial: Trial) -> None:
    """The same seed gives the same bytes, another seed others."""
    name = trial.method.name
    first, again, other = (_weights(t) for t in (trial.trained, trial.again, trial.other))
    _hold(first == again, f"{name}: the same seed gave other weights")
    _hold(first != other, f"{name}: another seed gave the same weights")


def check_budget(trial: Trial) -> None:
    """Each of `steps` steps sees its own `batch` of the job's rows, in whatever order."""
    found, name, budget = trial.trained, trial.method.name, trial.budget
    rows = [_ids(found.job, row) for row in found.job.train]
    _hold(
        len(found.at_steps) == budget.steps,
        f"{name}: {len(found.at_steps)} optimizer steps, the budget has {budget.steps}",
    )
    before = 0
    for step, seen in enumerate(found.at_steps):
        wanted = rows[step * budget.batch : (step + 1) * budget.batch]
        _hold(
            _made_of(found.tokens[before:seen], wanted),
            f"{name}: in step {step + 1} the model saw other rows than the plan's",
        )
        before = seen


def _made_of(tokens: Sequence[int], rows: Sequence[Sequence[int]]) -> bool:
    """Whether `tokens` are the rows one after another, each once, in some order."""
    left, at = sorted(rows, key=len, reverse=True), 0
    while left:
        found = next((row for row in left if tokens[at : at + len(row)] == row), None)
        if found is None:
            return False
        left.remove(found)
        at += len(found)
    return at == len(tokens)


def check_safetensors_only(trial: Trial) -> None:
    """The artifact's weights are safetensors, and nothing is left behind that may run code."""
    files = [f for f in trial.trained.job.folder.rglob("*") if f.is_file()]
    name = trial.method.name
    odd = sorted(f.name for f in files if f.suffix not in _MADE_OF)
    _hold(not odd, f"{name}: the artifact holds {', '.join(odd)}")
    _hold(any(f.suffix == ".safetensors" for f in files), f"{name}: there are no safetensors")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    check_trains,
    check_loss_falls,
    check_answers_when_reopened,
    check_seed,
    check_budget,
    check_safetensors_only,
)
"""All checks, for `pytest.mark.parametrize`."""


def _hold(held: bool, otherwise: str) -> None:
    if not held:
        raise AssertionError(otherwise)


# ---- what is watched -----------------------------------------------------------------------------

_THINGS = ("kettle", "lamp", "tent", "bell", "pump", "map")
_ROWS = [
    Row(
        f"{colour}-{thing}",
        messages=(
            {"role": "user", "content": f"A {colour} {thing}?"},
            {"role": "assistant", "content": f"Yes, {i} coins."},
        ),
    )
    for i, (thing, colour) in enumerate((t, c) for t in _THINGS for c in ("red", "blue"))
]


class _Watched:
    """What goes into the token embedding and when the optimizer steps, in the phase `train`.

    A method that has no such phase is watched from start to end.
    """

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.tokens: list[int] = []
        self.at_steps: list[int] = []
        self.phases: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The job's `phase`."""
        self.phases.append(name)
        try:
            yield
        finally:
            self.phases.pop()

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Watch every module and every optimizer of this process."""
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_post_hook

        forward = register_module_forward_pre_hook(self._forward)
        step = register_optimizer_step_post_hook(self._step)
        try:
            yield
        finally:
            forward.remove()
            step.remove()

    def _forward(self, module: Any, arguments: Any) -> None:
        import torch

        training = not self.phases or self.phases[-1] == "train"
        if not (isinstance(module, torch.nn.Embedding) and training and module.training):
            return
        if module.num_embeddings >= self.vocabulary:
            ids = arguments[0].reshape(-1).tolist()
            self.tokens += [i for i in ids if i != _PAD]

    def _step(self, *told: Any) -> None:
        self.at_steps.append(len(self.tokens))


_PAD = 0
"""The tiny tokenizer's padding, which stands in no row."""


def _vocabulary(model: Path) -> int:
    import json

    return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"])


def _ids(job: Job, row: Row) -> list[int]:
    from harness.data.tokenization import encode_row
    from harness.models.language_model import load_tokenizer

    tokenizer = load_tokenizer(Artifact("base", job.model))
    encoded = encode_row(tokenizer, row, max_length=job.budget.max_length, loss=job.loss)
    return [i for i in encoded.input_ids if i != _PAD]


def _weights(trained: Trained) -> dict[str, str]:
    """Name -> sha256 of each safetensors file."""
    files = sorted(trained.job.folder.rglob("*.safetensors"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
