"""Opens whatever transformers and peft can open."""

from typing import TYPE_CHECKING

from harness import Artifact
from harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from harness.models.language_model import LanguageModel


@hookimpl(trylast=True)
def open_model(artifact: Artifact) -> "LanguageModel":
    """The model as it was trained."""
    from harness.models.language_model import open_artifact

    return open_artifact(artifact)
