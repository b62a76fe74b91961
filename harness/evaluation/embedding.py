"""Sentence embeddings for scorers: each model is opened once, and each text runs once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.types import ModelRef


class Embedder:
    """Models that embed texts, opened when they are first used."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}
        self._embedded: dict[tuple[str, str], Any] = {}

    def embed(self, ref: ModelRef, texts: Sequence[str]) -> Any:
        """(texts, dimensions) float32 unit vectors of a model."""
        import numpy as np

        key, model = _key(ref), self.opened(ref)
        new = [text for text in dict.fromkeys(texts) if (key, text) not in self._embedded]
        found = model.encode(new, normalize_embeddings=True, show_progress_bar=False)
        self._embedded |= {(key, text): vector for text, vector in zip(new, found, strict=True)}
        return np.array([self._embedded[key, text] for text in texts])

    def opened(self, ref: ModelRef) -> Any:
        """The SentenceTransformer of a model."""
        if _key(ref) not in self._models:
            from sentence_transformers import SentenceTransformer

            self._models[_key(ref)] = SentenceTransformer(
                ref.path, revision=ref.revision, model_kwargs={"use_safetensors": True}
            )
        return self._models[_key(ref)]

    def forget(self) -> None:
        """Free the vectors of texts; models stay open."""
        self._embedded.clear()


def _key(ref: ModelRef) -> str:
    return f"{ref.path}@{ref.revision}"
