"""Weights that bitsandbytes quantises as they are loaded, as keywords of BitsAndBytesConfig."""

from __future__ import annotations

from collections.abc import Mapping

_COMPUTE = "bnb_4bit_compute_dtype"


def four_bit_config(
    precision: str,
    *,
    quant_type: str = "nf4",
    double_quant: bool = True,
    compute_dtype: str = "auto",
) -> dict[str, object]:
    """A base in 4 bits, as JSON-able keywords of transformers' BitsAndBytesConfig.

    By default as in the QLoRA paper (Dettmers et al. 2023, arXiv 2305.14314), section 3. A
    `compute_dtype` of `auto` is the plan's precision.
    """
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": double_quant,
        _COMPUTE: precision if compute_dtype == "auto" else compute_dtype,
    }


def keywords_of(quant_type: str) -> dict[str, object] | None:
    """`none`, `nf4`, `fp4` or `int8` as keywords, for a precision that is not known yet."""
    if quant_type == "none":
        return None
    if quant_type == "int8":
        return {"load_in_8bit": True}
    return without_precision(four_bit_config("", quant_type=quant_type), "")


def without_precision(
    keywords: Mapping[str, object] | None, precision: str
) -> dict[str, object] | None:
    """Keywords that say nothing of an arithmetic which is the plan's precision anyway."""
    if keywords is None:
        return None
    return {k: v for k, v in keywords.items() if (k, v) != (_COMPUTE, precision)}


def with_precision(
    keywords: Mapping[str, object] | None, precision: str
) -> dict[str, object] | None:
    """The same with an arithmetic of `precision` in 4 bits, where they name no other."""
    if keywords is None:
        return None
    four_bits = {_COMPUTE: precision} if keywords.get("load_in_4bit") else {}
    return {**four_bits, **keywords}
