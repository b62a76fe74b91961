"""Models that are stored quantised, by their config.json, and what cannot be done with them."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import UserError
from harness.types import ModelRef


def stored_quantization(model: ModelRef) -> Mapping[str, object] | None:
    """The `quantization_config` of a model's config.json; None where its weights are plain."""
    from harness.models.shapes import NotPredicted, config_of  # harness.memory imports this module

    try:
        config = config_of(model).get("quantization_config")
    except (NotPredicted, OSError, ValueError, AttributeError):
        return None
    return config if isinstance(config, Mapping) else None


def description(quantization: Mapping[str, object]) -> str:
    """A stored quantisation in words: `4 bits (nf4, computing in bfloat16)`, or its method."""
    if quantization.get("load_in_8bit"):
        return "8 bits (int8)"
    if quantization.get("load_in_4bit"):
        kind = quantization.get("bnb_4bit_quant_type", "fp4")
        dtype = quantization.get("bnb_4bit_compute_dtype", "float32")
        return f"4 bits ({kind}, computing in {dtype})"
    return str(quantization.get("quant_method", "an unknown quantisation"))


def check_full_precision(model: ModelRef) -> None:
    """Raise UserError where every weight is to be trained and the files are quantised."""
    quantization = stored_quantization(model)
    if quantization is not None:
        raise UserError(
            f"model '{model.name}' is stored in {description(quantization)}, whose weights cannot "
            "be trained: take lora or qlora, or name the model in full precision"
        )


def note(model: ModelRef) -> str | None:
    """A sentence for the record on a base that is quantised in its files; None for another."""
    quantization = stored_quantization(model)
    if quantization is None:
        return None
    return (
        f"model '{model.name}' is stored in {description(quantization)} and was opened so: a "
        "method's own quant_type, double_quant and compute_dtype are without effect"
    )
