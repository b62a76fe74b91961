"""Opens whatever transformers and peft can open."""

from harness import Artifact, Model, hookimpl, open_artifact


@hookimpl(trylast=True)
def open_model(artifact: Artifact, batch: int | None) -> Model:
    """The model as it was trained."""
    return open_artifact(artifact, batch)
