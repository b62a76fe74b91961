"""Opens whatever transformers and peft can open."""

from harness import Artifact, Model, hookimpl, open_artifact


@hookimpl(trylast=True)
def open_model(artifact: Artifact, batch: int | None) -> Model | None:
    """The model as it was trained; None where another engine is to generate."""
    return open_artifact(artifact, batch) if artifact.engine is None else None
