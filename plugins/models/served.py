"""Opens a model behind an OpenAI-compatible server, or in a GGUF file that llama.cpp serves."""

from harness import Artifact, Model, hookimpl, open_served


@hookimpl
def open_model(artifact: Artifact, batch: int | None) -> Model | None:
    """A served model; None for any other. Its server decides how much runs at once."""
    return open_served(artifact)
