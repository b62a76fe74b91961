"""The child that writes GGUF files of a merged model and asks llama.cpp what became of it.

`python -m harness.export.gguf_worker` reads a Task from its standard input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.export import gguf, gguf_verification, merge_worker, modelfile
from harness.export.gguf import Kind
from harness.export.gguf_verification import Logprobs, Told
from harness.manager import plugins
from harness.models import equivalence
from harness.models.equivalence import Outputs
from harness.models.language_model import LanguageModel, opened_where_there_is_room
from harness.results import store
from harness.system import child_process
from harness.system.child_process import Emit
from harness.types import Artifact, ModelRef, Precision, Sample


@dataclass(frozen=True)
class Task:
    """A merged model's folder, and the files to write into it."""

    folder: Path
    name: str
    """For the files' headers."""
    precision: Precision
    """Of the merged weights."""
    base: Artifact
    """The untouched base, as it was trained on."""
    kinds: Sequence[Kind]
    script: Path
    """llama.cpp's converter."""
    samples: Sequence[Sample]


def carry_out(task: Task, report: Emit) -> dict[str, object]:
    """Write the files; `report(phase=...)` is called at the start of each phase.

    The result has `gguf`, a list of each file's name, kind and verification, and `modelfile`, what
    the Modelfile says of its template. Raises UserError for a model that llama.cpp does not know.
    """
    for kind in task.kinds:
        report(phase=f"convert to {kind}")
        gguf.convert(task.script, task.folder, kind, task.folder / gguf.file_name(kind), task.name)
    report(phase="answer")
    merged = Artifact("base", ModelRef(task.name, str(task.folder)), precision=task.precision)
    with _opened(merged, task) as model:
        own = equivalence.observe(model, task.samples)
        told = [_told(task, kind, model, own, report) for kind in task.kinds]
        ours = [gguf_verification.scored(model, own, one) for one in told]
        written = modelfile.write(task.folder, list(map(gguf.file_name, task.kinds)), model)
    # the tokenizer stays; the weights make room for the base's
    bases = _of_base(task, own, told, report)
    files = [
        {
            "file": gguf.file_name(kind),
            "kind": kind,
            "verification": gguf_verification.compare(model, own, one, scores, base),
        }
        for kind, one, scores, base in zip(task.kinds, told, ours, bases, strict=True)
    ]
    return {"gguf": files, "modelfile": written}


def _told(task: Task, kind: Kind, model: LanguageModel, own: Outputs, report: Emit) -> Told:
    name = gguf.file_name(kind)
    report(phase=f"ask llama.cpp with {name}")
    return gguf_verification.ask(task.folder / name, model, task.samples, own)


def _of_base(
    task: Task, own: Outputs, told: Sequence[Told], report: Emit
) -> Sequence[Logprobs | None]:
    """What the untouched base gives each file's answers; None where it lacks one of the tokens."""
    report(phase="ask the base")
    most = max(
        token
        for ids in [*own.prompts, *(answer.ids for one in told for answer in one.answers)]
        for token in ids
    )
    with _opened(task.base, task) as base:
        if most >= base.model.get_input_embeddings().weight.shape[0]:
            return [None] * len(told)
        return [gguf_verification.scored(base, own, one) for one in told]


@contextmanager
def _opened(artifact: Artifact, task: Task) -> Iterator[LanguageModel]:
    numbers = sum(file.stat().st_size for file in task.folder.glob("*.safetensors"))
    numbers //= 4 if task.precision == "float32" else 2
    with opened_where_there_is_room(numbers, artifact.precision):
        model = plugins().open_model(artifact)
        if not isinstance(model, LanguageModel):
            raise UserError(
                f"model '{model.name}' is opened by a plugin, not by transformers: leave --gguf out"
            )
        try:
            yield model
        finally:
            model.close()


def main() -> int:
    """Carry out the Task on standard input; prints phases and the result as JSON lines."""
    from pydantic import TypeAdapter

    def run(request: bytes, emit: Emit) -> object:
        return store.plain(carry_out(TypeAdapter(Task).validate_json(request), emit))

    return child_process.work(run, merge_worker.message)


if __name__ == "__main__":
    sys.exit(main())
