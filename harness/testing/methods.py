"""Conformance tests of training methods: the requirements of a fair comparison.

    import pytest
    from harness.testing import CHECKS, Trial

    @pytest.fixture(scope="module")
    def trial(tmp_path_factory):
        return Trial(MyMethod(), tmp_path_factory.mktemp("trial"), {"r": 4})

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_method(trial, check):
        check(trial)

Each check takes a Trial and raises AssertionError with one line that names the violation. The
model is tiny and random and is created here; nothing is downloaded.
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
"""The budget of each training of a Trial: two passes a step, so that accumulation is tested."""
CLOSE = 1e-4
"""Nats a token by which a reopened artifact may differ from the model that was trained."""
_ARTIFACT_SUFFIXES = {".safetensors", ".json", ".jinja", ".md", ".txt", ".model"}


@dataclass
class Trained:
    """One training, and what was recorded of it."""

    artifact: Artifact
    job: Job
    difference: float
    """Largest difference of a log-probability, in nats a token: in memory against reopened; NaN
    where the method never passed its model to `job.trained`."""
    tokens: list[int] = field(default_factory=list)
    """Token ids that went into the model while it trained, without padding, in their order."""
    at_steps: list[int] = field(default_factory=list)
    """The number of those token ids at each optimizer step."""


class Trial:
    """A method with its options (those of an experiment file) on a tiny model.

    Each training runs when a check first needs it, and only once.
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
            raise ValueError(f"{method.name} does not train, so it cannot be tested")
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
        reference = ModelRef(NAME, str(path))
        self.options.fits(reference)
        return reference

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
        """The job that a worker would pass to the method."""
        from harness.data.rows import training_order

        budget = self.budget
        order = training_order(len(_ROWS), budget.steps * budget.batch, seed)
        fields = {
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
        return Job(**{**fields, **changes})

    def _train(self, name: str, seed: int) -> Trained:
        from harness.training.reload_check import Remembered

        folder = self.folder / name
        folder.mkdir(parents=True)
        recorder = _Recorder(_vocabulary(Path(self.model.path)))
        reference = Remembered(self.job(folder, seed))
        job = self.job(folder, seed, trained=reference.see, phase=recorder.phase)
        with recorder.hooks():
            artifact = self.method.train(job)
        compared = reference.scores is not None
        difference = reference.difference(artifact) if compared else math.nan
        return Trained(artifact, job, difference, recorder.tokens, recorder.at_steps)

    def score(self, artifact: Artifact) -> float:
        """Mean log-probability a token of the first rows of training, in nats."""
        from harness.models.language_model import open_artifact
        from harness.training.reload_check import scores

        opened = open_artifact(artifact)
        logprobs = scores(self.trained.job, opened.model, opened.tokenizer, artifact)
        return sum(logprobs) / len(logprobs)


# ---- the checks ----------------------------------------------------------------------------------


def check_trains(trial: Trial) -> None:
    """`train` returns an artifact of the job's model, in the job's folder."""
    training, name = trial.trained, trial.method.name
    artifact = training.artifact
    _require(isinstance(artifact, Artifact), f"{name}: train returned {type(artifact).__name__}")
    _require(artifact.kind != "base", f"{name}: the artifact is the untouched base")
    _require(artifact.base == training.job.model, f"{name}: the artifact is of another model")
    _require(
        artifact.path is not None and Path(artifact.path) == training.job.folder,
        f"{name}: the artifact lies in {artifact.path}, not in job.folder",
    )


def check_loss_falls(trial: Trial) -> None:
    """The training rows are likelier under the trained model than under the base.

    The base is opened as by the artifact: quantised where the artifact's is.
    """
    artifact = trial.trained.artifact
    base = Artifact("base", artifact.base, quantization=artifact.quantization)
    before, after = trial.score(base), trial.score(artifact)
    _require(
        after > before,
        f"{trial.method.name}: log-probability went from {before:.6f} to {after:.6f} nats a token",
    )


def check_answers_when_reopened(trial: Trial) -> None:
    """The artifact, reopened, gives the log-probabilities of the model that was trained."""
    training, name = trial.trained, trial.method.name
    _require(
        not math.isnan(training.difference),
        f"{name}: call job.trained(model, tokenizer) before saving, or train with train_sft",
    )
    _require(
        training.difference <= CLOSE,
        f"{name}: reopened, log-probabilities differ by {training.difference:.3g} nats a token",
    )


def check_seed(trial: Trial) -> None:
    """The same seed gives the same bytes, another seed others."""
    name = trial.method.name
    first, again, other = (_weights(t) for t in (trial.trained, trial.again, trial.other))
    _require(first == again, f"{name}: the same seed gave other weights")
    _require(first != other, f"{name}: another seed gave the same weights")


def check_budget(trial: Trial) -> None:
    """Each of `steps` steps sees its own `batch` of the job's rows, in whatever order."""
    training, name, budget = trial.trained, trial.method.name, trial.budget
    rows = [_ids(training.job, row) for row in training.job.train]
    _require(
        len(training.at_steps) == budget.steps,
        f"{name}: {len(training.at_steps)} optimizer steps, the budget has {budget.steps}",
    )
    start = 0
    for step, count in enumerate(training.at_steps):
        batch_rows = rows[step * budget.batch : (step + 1) * budget.batch]
        _require(
            _consists_of(training.tokens[start:count], batch_rows),
            f"{name}: in step {step + 1} the model saw other rows than the plan's",
        )
        start = count


def _consists_of(tokens: Sequence[int], rows: Sequence[Sequence[int]]) -> bool:
    """Whether `tokens` are the rows one after another, each once, in some order."""
    remaining, position = sorted(rows, key=len, reverse=True), 0
    while remaining:
        match = next(
            (row for row in remaining if tokens[position : position + len(row)] == row), None
        )
        if match is None:
            return False
        remaining.remove(match)
        position += len(match)
    return position == len(tokens)


def check_safetensors_only(trial: Trial) -> None:
    """The artifact's weights are safetensors, and nothing is left behind that may run code."""
    files = [f for f in trial.trained.job.folder.rglob("*") if f.is_file()]
    name = trial.method.name
    unexpected = sorted(f.name for f in files if f.suffix not in _ARTIFACT_SUFFIXES)
    _require(not unexpected, f"{name}: the artifact holds {', '.join(unexpected)}")
    _require(any(f.suffix == ".safetensors" for f in files), f"{name}: there are no safetensors")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    check_trains,
    check_loss_falls,
    check_answers_when_reopened,
    check_seed,
    check_budget,
    check_safetensors_only,
)
"""All checks, for `pytest.mark.parametrize`."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


# ---- recording a training ------------------------------------------------------------------------

_NOUNS = ("kettle", "lamp", "tent", "bell", "pump", "map")
_ROWS = [
    Row(
        f"{colour}-{thing}",
        messages=(
            {"role": "user", "content": f"A {colour} {thing}?"},
            {"role": "assistant", "content": f"Yes, {i} coins."},
        ),
    )
    for i, (thing, colour) in enumerate((t, c) for t in _NOUNS for c in ("red", "blue"))
]


class _Recorder:
    """Records the token embedding's inputs and the optimizer's steps, in the phase `train`.

    A method without such a phase is recorded from start to end.
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
        """Hook into every module and every optimizer of this process."""
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

    def _step(self, *arguments: Any) -> None:
        self.at_steps.append(len(self.tokens))


_PAD = 0
"""The tiny tokenizer's padding id, which occurs in no row."""


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
